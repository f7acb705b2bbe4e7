//! The contract's guest side: generated, one world a phase, so that a plugin exports just the phases it names.

#![allow(unreachable_pub, clippy::all, missing_docs)]

use crate::decision;

wit_bindgen::generate!({
    path: "../wit",
    world: "host",
    generate_all,
});

pub use sluice::plugin::types::{Body, Decision, Piece, Request, Response, Summary, Trailers};
pub use sluice::plugin::{attributes, clock, logging, metrics, outgoing, random, routing, secrets, store};
pub use wit_bindgen;

macro_rules! world {
    ($module:ident, $world:literal, $macro:literal, $interface:ident) => {
        pub mod $module {
            wit_bindgen::generate!({
                path: "../wit",
                world: $world,
                with: {
                    "sluice:plugin/types@0.1.0": crate::backend::sluice::plugin::types,
                    "sluice:plugin/attributes@0.1.0": crate::backend::sluice::plugin::attributes,
                    "sluice:plugin/logging@0.1.0": crate::backend::sluice::plugin::logging,
                    "sluice:plugin/clock@0.1.0": crate::backend::sluice::plugin::clock,
                    "sluice:plugin/random@0.1.0": crate::backend::sluice::plugin::random,
                    "sluice:plugin/secrets@0.1.0": crate::backend::sluice::plugin::secrets,
                    "sluice:plugin/metrics@0.1.0": crate::backend::sluice::plugin::metrics,
                    "sluice:plugin/store@0.1.0": crate::backend::sluice::plugin::store,
                    "sluice:plugin/outgoing@0.1.0": crate::backend::sluice::plugin::outgoing,
                    "sluice:plugin/routing@0.1.0": crate::backend::sluice::plugin::routing,
                },
                generate_all,
                pub_export_macro: true,
                export_macro_name: $macro,
            });
        }
        pub use $module::exports::sluice::plugin::$interface;
    };
}

world!(with_configuration, "with-configuration", "export_configuration", configuration);
world!(with_self_test, "with-self-test", "export_self_test", self_test);
world!(with_request_headers, "with-request-headers", "export_request_headers", request_headers);
world!(with_request_body, "with-request-body", "export_request_body", request_body);
world!(with_request_body_stream, "with-request-body-stream", "export_request_body_stream", request_body_stream);
world!(with_response_headers, "with-response-headers", "export_response_headers", response_headers);
world!(with_response_body, "with-response-body", "export_response_body", response_body);
world!(with_response_body_stream, "with-response-body-stream", "export_response_body_stream", response_body_stream);
world!(with_response_trailers, "with-response-trailers", "export_response_trailers", response_trailers);
world!(with_log, "with-log", "export_log", log);

pub use with_configuration::export_configuration;
pub use with_log::export_log;
pub use with_request_body::export_request_body;
pub use with_request_body_stream::export_request_body_stream;
pub use with_request_headers::export_request_headers;
pub use with_response_body::export_response_body;
pub use with_response_body_stream::export_response_body_stream;
pub use with_response_headers::export_response_headers;
pub use with_response_trailers::export_response_trailers;
pub use with_self_test::export_self_test;

/// Turns a decision into the host's. To go on is to say nothing.
pub fn lower(decision: decision::Decision) -> Option<Decision> {
    match decision {
        decision::Decision::Continue => None,
        decision::Decision::Respond(reply) => Some(respond(&reply)),
        decision::Decision::Abort => Some(Decision::abort()),
        decision::Decision::ReadBody(read) => {
            let decision = Decision::read_body(read.limit);
            if read.pass_over_limit {
                decision.pass_over_limit();
            }
            Some(decision)
        }
    }
}

/// A field or body that the gateway refuses is a mistake of the plugin's author: told in the log, and left out.
fn respond(reply: &decision::Reply) -> Decision {
    let local = sluice::plugin::types::LocalReply::new(reply.status);
    for (name, value) in &reply.headers {
        if let Err(reason) = local.append_header(name, value) {
            logging::error(&format!("a header of a local reply was left out: {reason}"));
        }
    }
    if !reply.body.is_empty()
        && let Err(reason) = local.set_body(&reply.body)
    {
        logging::error(&format!("the body of a local reply was left out: {reason}"));
    }
    Decision::respond(local)
}
