//! The differences that there are, each with its reason. One that is not met any more fails the test.

use crate::comparison::Known;

const fn known(what: &'static str, case: &'static str, why: &'static str) -> Known {
    Known { what, case, why }
}

pub(crate) const KNOWN: &[Known] = &[
    known(
        "answer: field connection",
        "",
        "it is about the client's connection alone, which each gateway closes as it likes",
    ),
    known("backend: field x-envoy-*", "", "Envoy's own fields"),
    known("callout: field x-envoy-*", "", "Envoy's own fields"),
    known(
        "backend: field x-forwarded-*",
        "",
        "for a client on loopback Envoy writes the machine's address, and it has no host and port",
    ),
    known("backend: field x-real-ip", "", "Envoy has none"),
    known("backend: field content-length", "OPTIONS /", LENGTH),
    known("backend: field content-length", "PUT /", LENGTH),
    known("backend: field content-length", "POST / of nothing", LENGTH),
    known("backend: field x-told", "x-do=pairs", FORWARDED),
    known("backend: field x-told", "x-do=count", FORWARDED),
    known("answer: field x-pieces", "filter-body", "how a body is cut into pieces is each engine's affair"),
    known("backend: trailer x-sent", "of trailers", TRAILERS),
    known("callbacks", "of trailers", TRAILERS),
    known("callbacks", "ask-request", PAUSED),
    known("callbacks", "ask-response", PAUSED),
];

const LENGTH: &str = "of a request without a body the length need not be told (RFC 9110, section 8.6)";
const FORWARDED: &str =
    "the fields about the client are written when a request goes out, so that no filter can forge them";
const TRAILERS: &str = "the engine hands on no trailers of requests";
const PAUSED: &str =
    "what has come of a body while its head was paused is one piece under Envoy; here it is not read before";
