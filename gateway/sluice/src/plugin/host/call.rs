//! One phase of a test's exchange, in the engine.

use super::desk::Desk;
use super::protocol::{
    Answer, Asked, Attribute, Bytes as Text, Call, Called, Decision as Wish, Fields, FromHost, Phase, Piece, Request,
    Response, ToHost,
};
use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use sluice_wasm::{
    AttributeValue, BodyOutcome, Decision, Exchange, FetchError, FetchErrorKind, LocalReply, Outbound, OutboundRequest,
    OutboundResponse, OverLimit, Phases, PlainRequest, PlainResponse, PluginError, Summary,
};
use std::sync::Arc;
use std::time::Duration;

/// What a phase left, beside the exchange.
#[derive(Default)]
struct Left {
    decision: Decision,
    content: Option<Bytes>,
    trailers: Option<HeaderMap>,
    body: Option<u64>,
}

impl From<Decision> for Left {
    fn from(decision: Decision) -> Left {
        Left { decision, ..Left::default() }
    }
}

impl From<BodyOutcome> for Left {
    fn from(outcome: BodyOutcome) -> Left {
        Left { decision: outcome.decision, content: outcome.replacement, ..Left::default() }
    }
}

/// Each phase has an instance of its own, as phases share nothing; the pieces of a body have one together.
pub(super) async fn run(desk: &Arc<Desk>, call: Call) -> Result<FromHost> {
    let configured = desk.plugin(call.plugin)?;
    let (name, takes) = part(configured.phases(), &call.phase);
    ensure!(takes, "the module has no phase `{name}`: its `export!` does not name it");
    desk.count()?;
    desk.let_route(call.routing);
    let mut exchange = Exchange::new(request(call.request)?);
    if let Some(head) = call.response {
        exchange.put_response(Box::new(response(head)?));
    }
    for (name, value) in call.attributes {
        let value = match value {
            Attribute::String(text) => AttributeValue::String(text.into()),
            Attribute::Integer(number) => AttributeValue::Integer(number),
            Attribute::Boolean(value) => AttributeValue::Boolean(value),
        };
        exchange.attributes.set(&name, value).map_err(|reason| anyhow!("the attribute `{name}`: {reason}"))?;
    }
    // As the gateway has it: who logs calls nobody.
    if !matches!(call.phase, Phase::Log(_)) {
        exchange.outbound = Some(Arc::new(Backends { desk: desk.clone(), names: call.backends }));
    }
    drop((desk.logged(), desk.told()));
    let mut invocation = match &call.phase {
        Phase::RequestPiece(Piece { body: Some(body), .. }) | Phase::ResponsePiece(Piece { body: Some(body), .. }) => {
            desk.kept(*body)?
        }
        _ => configured.begin(),
    };
    let left: Result<Left, PluginError> = match call.phase {
        Phase::Request => invocation.on_request(&mut exchange).await.map(Left::from),
        Phase::RequestBody(body) => invocation.on_request_body(&mut exchange, body.0.into()).await.map(Left::from),
        Phase::Response => invocation.on_response(&mut exchange).await.map(Left::from),
        Phase::ResponseBody(body) => invocation.on_response_body(&mut exchange, body.0.into()).await.map(Left::from),
        Phase::RequestPiece(Piece { body, content, last }) => {
            let mut content = Bytes::from(content.0);
            let decision = invocation.on_request_piece(&mut exchange, &mut content, last).await;
            decision.map(|decision| {
                let goes_on = !last && matches!(decision, Decision::Continue);
                let body = goes_on.then(|| desk.keep(body, invocation));
                Left { decision, content: Some(content), body, ..Left::default() }
            })
        }
        Phase::ResponsePiece(Piece { body, content, last }) => {
            let mut content = Bytes::from(content.0);
            let decision = invocation.on_response_piece(&mut exchange, &mut content, last).await;
            decision.map(|decision| {
                let goes_on = !last && matches!(decision, Decision::Continue);
                let body = goes_on.then(|| desk.keep(body, invocation));
                Left { decision, content: Some(content), body, ..Left::default() }
            })
        }
        Phase::ResponseTrailers(fields) => {
            let mut trailers = headers(fields)?;
            let done = invocation.on_response_trailers(&mut exchange, &mut trailers, &mut Bytes::new()).await;
            done.map(|()| Left { trailers: Some(trailers), ..Left::default() })
        }
        Phase::Log(summary) => {
            let summary = Summary {
                duration: Duration::from_nanos(summary.duration),
                bytes_received: summary.bytes_received,
                bytes_sent: summary.bytes_sent,
                reason: None,
            };
            invocation.on_log(&mut exchange, summary).await.map(|()| Left::default())
        }
    };
    if let Some(trouble) = desk.trouble() {
        bail!("a backend of the test: {trouble}");
    }
    match left {
        Ok(left) => Ok(FromHost::Called(Box::new(called(desk, exchange, left)?))),
        Err(error) => Ok(FromHost::Failed { reason: error.to_string(), log: desk.logged() }),
    }
}

/// A phase as `export!` names it, and whether the plugin takes part in it.
fn part(phases: &Phases, phase: &Phase) -> (&'static str, bool) {
    match phase {
        Phase::Request => ("request", phases.request_headers()),
        Phase::RequestBody(_) => ("request_body", phases.request_body()),
        Phase::RequestPiece(_) => ("request_body_stream", phases.streams_request()),
        Phase::Response => ("response", phases.response_headers()),
        Phase::ResponseBody(_) => ("response_body", phases.response_body()),
        Phase::ResponsePiece(_) => ("response_body_stream", phases.streams_response()),
        Phase::ResponseTrailers(_) => ("response_trailers", phases.response_trailers()),
        Phase::Log(_) => ("log", phases.log()),
    }
}

fn called(desk: &Desk, mut exchange: Exchange, left: Left) -> Result<Called> {
    let decision = match left.decision {
        Decision::Continue => Wish::Continue,
        Decision::Abort => Wish::Abort,
        Decision::ReadBody(wish) => {
            Wish::ReadBody { limit: wish.limit, pass_over_limit: wish.over_limit == OverLimit::Pass }
        }
        Decision::Respond(reply) => {
            let LocalReply { status, headers, body } = *reply;
            Wish::Respond { status: status.as_u16(), headers: fields(&headers), body: Text(body.into()) }
        }
    };
    let request = exchange.take_request::<PlainRequest>().context("the engine lost the request")?;
    let response = exchange.take_response::<PlainResponse>();
    let response =
        response.map(|response| Response { status: response.status.as_u16(), headers: fields(&response.headers) });
    let attribute = |(name, value): (&str, &AttributeValue)| {
        let value = match value {
            AttributeValue::String(text) => Attribute::String(text.to_string()),
            AttributeValue::Integer(number) => Attribute::Integer(*number),
            AttributeValue::Boolean(value) => Attribute::Boolean(*value),
        };
        (name.to_owned(), value)
    };
    Ok(Called {
        decision,
        path: request.path,
        query: request.query,
        headers: fields(&request.headers),
        response,
        attributes: exchange.attributes.iter().map(attribute).collect(),
        content: left.content.map(|content| Text(content.into())),
        trailers: left.trailers.as_ref().map(fields),
        destination: exchange.destination.backend.map(String::from),
        finds_route: exchange.destination.find_route,
        body: left.body,
        metrics: desk.told(),
        log: desk.logged(),
    })
}

fn request(request: Request) -> Result<PlainRequest> {
    let Request { method, scheme, authority, path, query, headers: fields, properties } = request;
    let headers = headers(fields).context("the request")?;
    let properties = properties.into_iter().collect();
    Ok(PlainRequest { method, scheme, authority, path, query, headers, properties })
}

fn response(response: Response) -> Result<PlainResponse> {
    Ok(PlainResponse { status: status(response.status)?, headers: headers(response.headers).context("the response")? })
}

/// Of a response that is no interim one.
fn status(status: u16) -> Result<StatusCode> {
    let code = StatusCode::from_u16(status).ok().filter(|code| (200..600).contains(&code.as_u16()));
    code.with_context(|| format!("{status} is not a status of a response: 200 to 599"))
}

fn headers(fields: Fields) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let header: HeaderName = name.parse().map_err(|_| anyhow!("`{name}` is not a header name"))?;
        let value = HeaderValue::from_bytes(&value.0)
            .map_err(|_| anyhow!("the value of `{name}` holds bytes that no header value may hold"))?;
        headers.append(header, value);
    }
    Ok(headers)
}

fn fields(headers: &HeaderMap) -> Fields {
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), Text(value.as_bytes().to_vec()))).collect()
}

/// The backends of a test, which are asked over the pipe.
struct Backends {
    desk: Arc<Desk>,
    names: Vec<String>,
}

impl Outbound for Backends {
    fn has(&self, backend: &str) -> bool {
        self.names.iter().any(|name| name == backend)
    }

    fn fetch(
        &self,
        backend: &str,
        request: OutboundRequest,
    ) -> BoxFuture<'static, std::result::Result<OutboundResponse, FetchError>> {
        if !self.has(backend) {
            let message = format!("the Plugin's capabilities.backends has no `{backend}`");
            return std::future::ready(Err(FetchError::new(FetchErrorKind::NotAllowed, message))).boxed();
        }
        let (desk, backend) = (self.desk.clone(), backend.to_owned());
        async move {
            let max_body = request.max_body;
            let answer = ask(&desk, backend, request).await.and_then(|answer| answered(answer, max_body));
            answer.unwrap_or_else(|error| {
                let message = format!("{error:#}");
                desk.note_trouble(message.clone());
                Err(FetchError::new(FetchErrorKind::Protocol, message))
            })
        }
        .boxed()
    }
}

async fn ask(desk: &Desk, backend: String, request: OutboundRequest) -> Result<Answer> {
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let asked = Asked {
        method: request.method.to_string(),
        target: request.target.to_string(),
        authority: request.authority.map(|authority| authority.to_string()),
        headers: fields(&request.headers),
        body: Text(request.body.into()),
        timeout_ms: request.own.timeout.map(milliseconds),
        body_limit: request.own.max_body,
    };
    desk.pipe.say(&FromHost::Asked { backend, request: asked })?;
    loop {
        let answer = match desk.pipe.hear().await?.context("the tests are over")? {
            ToHost::Answer(answer) => return Ok(answer),
            ToHost::Services(services) => desk.serve(services)?,
            ToHost::Store { store, call } => desk.store(&store, call),
            ToHost::Configure { .. } | ToHost::Call(_) => FromHost::Error(
                "a backend of a test can't run plugins itself: the plugin's call is under way".to_owned(),
            ),
        };
        desk.pipe.say(&answer)?;
    }
}

fn answered(answer: Answer, max_body: u64) -> Result<std::result::Result<OutboundResponse, FetchError>> {
    Ok(match answer {
        Answer::Failure { kind, message } => {
            let known = FetchErrorKind::ALL.into_iter().find(|known| known.as_str() == kind);
            Err(FetchError::new(known.with_context(|| format!("`{kind}` is no kind of failure"))?, message))
        }
        Answer::Response { body, .. } if body.0.len() as u64 > max_body => {
            let message = format!("the answer's body has more than {max_body} bytes");
            Err(FetchError::new(FetchErrorKind::TooLarge, message))
        }
        Answer::Response { status: code, headers: fields, body } => Ok(OutboundResponse {
            status: status(code)?,
            headers: headers(fields)?,
            body: body.0.into(),
            trailers: HeaderMap::new(),
            held: None,
        }),
    })
}
