//! A plugin under test: its own type, or its module in the gateway's engine.

use super::engine;
use super::protocol::{self, Bytes, Call, Called, MetricValue, Phase};
use crate::backend::{self, attributes, metrics, outgoing, routing};
use crate::{
    Body, Decision, OnLog, OnRequest, OnRequestBody, OnRequestPiece, OnResponse, OnResponseBody, OnResponsePiece,
    OnResponseTrailers, Piece, Plugin, Reply, Request, Response, SelfTest, Summary, Trailers,
};
use serde::Serialize;
use std::fmt;

/// Configures a plugin for a test, natively or, with `SLUICE_PLUGIN_WASM` in the environment, in the gateway's engine: see
/// [the module's page](super#in-the-gateways-engine).
///
/// ```
/// use sluice_plugin::testing::{Exchange, configure, json};
/// # use sluice_plugin::{Decision, OnRequest, Plugin, Reply, Request};
/// # #[derive(serde::Deserialize, schemars::JsonSchema)]
/// # struct Config { host: String }
/// # struct OneHost(String);
/// # impl Plugin for OneHost {
/// #     type Config = Config;
/// #     fn configure(config: Config) -> Result<Self, String> {
/// #         if config.host.is_empty() { Err("host is empty".into()) } else { Ok(OneHost(config.host)) }
/// #     }
/// # }
/// # impl OnRequest for OneHost {
/// #     fn on_request(&self, request: &mut Request<'_>) -> Decision {
/// #         if request.authority() == self.0 { Decision::Continue } else { Reply::new(421).into() }
/// #     }
/// # }
///
/// let plugin = configure::<OneHost>(json!({ "host": "example.com" })).unwrap();
/// assert!(Exchange::get("/").on_request(&plugin).is_continue());
/// assert!(configure::<OneHost>(json!({ "host": "" })).unwrap_err().contains("host is empty"));
/// ```
///
/// # Errors
/// Why the configuration is refused. In the engine the plugin's schema may refuse it first, in words of its own, with the
/// field in front; and so may [`SelfTest`].
///
/// # Panics
/// Where `config` can't be JSON; in the engine also where there is no `sluice`, or the module is no plugin.
#[track_caller]
pub fn configure<P: Plugin>(config: impl Serialize) -> Result<Tested<P>, String> {
    let config = match serde_json::to_string(&config) {
        Ok(config) => config,
        Err(error) => panic!("the configuration can't be JSON: {error}"),
    };
    let Some(module) = engine::module::<P>() else {
        let config =
            serde_json::from_str(&config).map_err(|error| format!("the configuration does not fit: {error}"))?;
        return P::configure(config).map(|plugin| Tested(Is::Native(plugin)));
    };
    engine::configure(&module, &config)?;
    Ok(Tested(Is::Compiled(Compiled { module, config })))
}

/// A plugin under test, as [`configure`] gives it: what takes `P`'s phases takes it.
pub struct Tested<P>(Is<P>);

impl<P> fmt::Debug for Tested<P> {
    /// Whatever the plugin is: `configure` is a `Result`, whose `unwrap_err` asks for it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match &self.0 {
            Is::Native(_) => "natively",
            Is::Compiled(compiled) => &compiled.module,
        };
        write!(f, "{} ({how})", std::any::type_name::<P>())
    }
}

enum Is<P> {
    Native(P),
    Compiled(Compiled),
}

/// By what any thread's host finds it again.
struct Compiled {
    module: String,
    config: String,
}

impl Compiled {
    /// Runs a phase, and makes of the exchange what it is after that.
    #[track_caller]
    fn call(&self, phase: Phase, request: &backend::Request, response: Option<&backend::Response>) -> Called {
        let plugin = match engine::configure(&self.module, &self.config) {
            Ok(plugin) => plugin,
            Err(reason) => panic!("the configuration is refused now, and was not before: {reason}"),
        };
        let head = |response: &backend::Response| protocol::Response {
            status: response.status.get(),
            headers: engine::fields(&response.fields.borrow()),
        };
        let call = Call {
            plugin,
            phase,
            request: protocol::Request {
                method: request.method.clone(),
                scheme: request.scheme.clone(),
                authority: request.authority.clone(),
                path: request.path(),
                query: request.query(),
                headers: engine::fields(&request.fields.borrow()),
                properties: request.properties.clone(),
            },
            response: response.map(head),
            attributes: attributes::all(),
            backends: outgoing::names(),
            routing: routing::is_allowed(),
        };
        let mut called = engine::call(call);
        called.log.iter().for_each(|line| eprintln!("{line}"));
        for metric in called.metrics.drain(..) {
            let told = match metric.value {
                MetricValue::Added(by) => metrics::add(&metric.name, &metric.labels, by),
                MetricValue::Gauge(bits) => metrics::set(&metric.name, &metric.labels, f64::from_bits(bits)),
                MetricValue::Observation(bits) => {
                    metrics::observe(&metric.name, &metric.labels, f64::from_bits(bits), &[])
                }
            };
            if let Err(reason) = told {
                panic!("the engine took the metric `{}`, and the test can't: {reason}", metric.name);
            }
        }
        *request.path.borrow_mut() = std::mem::take(&mut called.path);
        *request.query.borrow_mut() = called.query.take();
        *request.fields.borrow_mut() = engine::plain(std::mem::take(&mut called.headers));
        if let (Some(response), Some(now)) = (response, called.response.take()) {
            response.status.set(now.status);
            *response.fields.borrow_mut() = engine::plain(now.headers);
        }
        attributes::replace(std::mem::take(&mut called.attributes));
        routing::told(called.destination.take(), called.finds_route);
        called
    }

    /// A piece of a body; `body` is what is remembered of it.
    #[track_caller]
    fn pass(
        &self,
        body: &mut Option<u64>,
        piece: &mut Piece<'_>,
        phase: fn(protocol::Piece) -> Phase,
        request: &backend::Request,
        response: Option<&backend::Response>,
    ) -> Decision {
        let (content, last) = (Bytes(piece.read()), piece.is_last());
        let called = self.call(phase(protocol::Piece { body: body.take(), content, last }), request, response);
        *body = called.body;
        if let Some(content) = called.content {
            *piece.handle.content.borrow_mut() = content.0;
        }
        called.decision.into()
    }
}

impl From<protocol::Decision> for Decision {
    fn from(decision: protocol::Decision) -> Decision {
        match decision {
            protocol::Decision::Continue => Decision::Continue,
            protocol::Decision::Abort => Decision::Abort,
            protocol::Decision::Respond { status, headers, body } => {
                Reply { status, headers: engine::plain(headers), body: body.0 }.into()
            }
            protocol::Decision::ReadBody { limit, pass_over_limit } => {
                crate::ReadBody { limit, pass_over_limit }.into()
            }
        }
    }
}

/// So that it can stand where a plugin does; [`configure`] is what tests call.
impl<P: Plugin> Plugin for Tested<P> {
    type Config = serde_json::Value;

    fn configure(config: serde_json::Value) -> Result<Self, String> {
        configure(config)
    }
}

impl<P: SelfTest> SelfTest for Tested<P> {
    fn self_test(&self) -> Result<(), String> {
        match &self.0 {
            Is::Native(plugin) => plugin.self_test(),
            // The engine has run it: else there would be no such plugin.
            Is::Compiled(_) => Ok(()),
        }
    }
}

impl<P: OnRequest> OnRequest for Tested<P> {
    #[track_caller]
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        match &self.0 {
            Is::Native(plugin) => plugin.on_request(request),
            Is::Compiled(compiled) => compiled.call(Phase::Request, request.handle, None).decision.into(),
        }
    }
}

impl<P: OnRequestBody> OnRequestBody for Tested<P> {
    #[track_caller]
    fn on_request_body(&self, request: &mut Request<'_>, body: &mut Body<'_>) -> Decision {
        match &self.0 {
            Is::Native(plugin) => plugin.on_request_body(request, body),
            Is::Compiled(compiled) => {
                let called = compiled.call(Phase::RequestBody(Bytes(body.to_vec())), request.handle, None);
                replaced(called, body)
            }
        }
    }
}

fn replaced(called: Called, body: &mut Body<'_>) -> Decision {
    if let Some(content) = called.content {
        *body.handle.content.borrow_mut() = content.0;
    }
    called.decision.into()
}

/// What is remembered from one piece of a body to the next: the plugin's own, or by what the engine finds it.
#[derive(Debug, Default)]
pub struct Passing<S> {
    native: S,
    body: Option<u64>,
}

impl<P: OnRequestPiece> OnRequestPiece for Tested<P> {
    type State = Passing<P::State>;

    #[track_caller]
    fn on_request_piece(&self, state: &mut Self::State, request: &Request<'_>, piece: &mut Piece<'_>) -> Decision {
        match &self.0 {
            Is::Native(plugin) => plugin.on_request_piece(&mut state.native, request, piece),
            Is::Compiled(compiled) => compiled.pass(&mut state.body, piece, Phase::RequestPiece, request.handle, None),
        }
    }
}

impl<P: OnResponse> OnResponse for Tested<P> {
    #[track_caller]
    fn on_response(&self, request: &Request<'_>, response: &mut Response<'_>) -> Decision {
        match &self.0 {
            Is::Native(plugin) => plugin.on_response(request, response),
            Is::Compiled(compiled) => {
                compiled.call(Phase::Response, request.handle, Some(response.handle)).decision.into()
            }
        }
    }
}

impl<P: OnResponseBody> OnResponseBody for Tested<P> {
    #[track_caller]
    fn on_response_body(&self, request: &Request<'_>, response: &mut Response<'_>, body: &mut Body<'_>) -> Decision {
        match &self.0 {
            Is::Native(plugin) => plugin.on_response_body(request, response, body),
            Is::Compiled(compiled) => {
                let phase = Phase::ResponseBody(Bytes(body.to_vec()));
                replaced(compiled.call(phase, request.handle, Some(response.handle)), body)
            }
        }
    }
}

impl<P: OnResponsePiece> OnResponsePiece for Tested<P> {
    type State = Passing<P::State>;

    #[track_caller]
    fn on_response_piece(
        &self,
        state: &mut Self::State,
        request: &Request<'_>,
        response: &Response<'_>,
        piece: &mut Piece<'_>,
    ) -> Decision {
        match &self.0 {
            Is::Native(plugin) => plugin.on_response_piece(&mut state.native, request, response, piece),
            Is::Compiled(compiled) => {
                let response = Some(response.handle);
                compiled.pass(&mut state.body, piece, Phase::ResponsePiece, request.handle, response)
            }
        }
    }
}

impl<P: OnResponseTrailers> OnResponseTrailers for Tested<P> {
    #[track_caller]
    fn on_response_trailers(&self, request: &Request<'_>, response: &Response<'_>, trailers: &mut Trailers<'_>) {
        match &self.0 {
            Is::Native(plugin) => plugin.on_response_trailers(request, response, trailers),
            Is::Compiled(compiled) => {
                let phase = Phase::ResponseTrailers(engine::fields(&trailers.entries()));
                let called = compiled.call(phase, request.handle, Some(response.handle));
                if let Some(now) = called.trailers {
                    *trailers.handle.fields.borrow_mut() = engine::plain(now);
                }
            }
        }
    }
}

impl<P: OnLog> OnLog for Tested<P> {
    #[track_caller]
    fn on_log(&self, request: &Request<'_>, response: Option<&Response<'_>>, summary: &Summary<'_>) {
        match &self.0 {
            Is::Native(plugin) => plugin.on_log(request, response, summary),
            Is::Compiled(compiled) => {
                let phase = Phase::Log(protocol::Summary {
                    duration: summary.handle.duration,
                    bytes_received: summary.bytes_received(),
                    bytes_sent: summary.bytes_sent(),
                });
                compiled.call(phase, request.handle, response.map(|response| response.handle));
            }
        }
    }
}
