//! The differences that there are, each with its reason. One that is not met any more fails the test, but
//! for those that depend on what arrives when.

use crate::comparison::Known;

const fn known(what: &'static str, case: &'static str, why: &'static str) -> Known {
    Known { what, case, why, sometimes: false }
}

const fn sometimes(what: &'static str, case: &'static str, why: &'static str) -> Known {
    Known { what, case, why, sometimes: true }
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
    sometimes("answer: field x-pieces", "filter-body", PIECES),
    known("backend: trailer x-sent", "of trailers", TRAILERS),
    known("callbacks", "of trailers", TRAILERS),
    known("callbacks", "ask-request", PAUSED),
    known("callbacks", "ask-response", PAUSED),
    sometimes("callbacks", "210000 bytes", PIECES),
    sometimes("callbacks", "POST / of 4 pieces", PIECES),
    sometimes("callbacks", "/chunked/", PIECES),
    sometimes("callbacks", "/length/70000", PIECES),
    sometimes("callout: requests", "x-body=ask", PIECES),
    known("callbacks", "HEAD /length/100", HEAD),
    known("answer: field x-seen", "HEAD /length/100", HEAD),
    known("answer: field x-seen", "HEAD /length/10 x-then=status", HEAD),
    known(
        "callout: field content-length",
        "gRPC",
        "the message is whole when it goes out, so that its length is told; Envoy leaves it to the end of the stream",
    ),
    known("answer: field x-answer", "x-status=7", VIA),
    known("backend: field x-answer", "x-status=14", VIA),
    known(
        "backend: field x-answer",
        "gRPC /grpc/5 x-status=0",
        "a status that there is none of: Envoy tells that of the call before",
    ),
    known(
        "backend: field x-told",
        "x-do=foreign",
        "the ABI names NOT_FOUND for a function that there is none of (proxy-wasm 0.2.1, proxy_call_foreign_function)",
    ),
    known("backend: field connection", "x-do=edit", CONNECTION),
    known("answer: *", "two: GET /a?b=c x-do=edit", CONNECTION),
    known("backend: *", "two: GET /a?b=c x-do=edit", CONNECTION),
    known("answer: *", "two: POST /a of 11 bytes x-do=edit", CONNECTION),
    known("backend: *", "two: POST /a of 11 bytes x-do=edit", CONNECTION),
    known("backend: field content-length", "one: GET /a?b=c x-do=edit", LENGTH),
    known("answer: *", "x-do=replace-all", HOST),
    known("backend: *", "x-do=replace-all", HOST),
];

const CONNECTION: &str =
    "the filter sets Connection, which is the gateway's own: Envoy sends it on, and fails where that is over HTTP/2";
const PIECES: &str = "how a body is cut into pieces is each engine's affair";
const HEAD: &str =
    "the answer to HEAD is over with its head (RFC 9110, section 9.3.2), also where its stream has an empty frame more";
const VIA: &str = "Envoy notes by whom a failed call was answered";
const HOST: &str =
    "a filter that replaces all fields and names no host: Envoy finds no route any more, here the client's host stays";
const LENGTH: &str = "of a request without a body the length need not be told (RFC 9110, section 8.6)";
const FORWARDED: &str =
    "the fields about the client are written when a request goes out, so that no filter can forge them";
const TRAILERS: &str = "the engine hands on no trailers of requests";
const PAUSED: &str =
    "what has come of a body while its head was paused is one piece under Envoy; here it is not read before";
