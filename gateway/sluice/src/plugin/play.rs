//! Plays cases in the gateway's engine, as the gateway itself would run the phases, and says where they differ from what is
//! expected.

use super::case::{Attribute, Case, Decision as Wish, Expect, Placed, Values, Wanted};
use super::engine::{Engine, Module, Settings, sentence};
use super::log::Lines;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use indexmap::IndexMap;
use serde_json::{Value, json};
use sluice_model::Problem;
use sluice_model::plugin::InstanceMode;
use sluice_wasm::{
    AttributeValue, Attributes, Configured, Decision, Exchange, Invocation, LocalReply, OverLimit, PlainRequest,
    PlainResponse, PluginError, Summary,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// CPU time of a call. Longer than a Plugin's default: a test is about what is right, and an interpreter starts first.
const RUN_TIME: Duration = Duration::from_secs(2);

/// Wall time of a call.
const DEADLINE: Duration = Duration::from_secs(30);

/// Cases of one configuration that share a plugin, so that its log (100 lines a second) has room for those of each.
const CASES: usize = 20;

/// How a case went.
pub(crate) struct Outcome {
    /// What differs; empty where nothing does.
    pub(crate) differences: Vec<String>,
    pub(crate) took: Duration,
}

/// Plays cases one after the other; tells of each. Neighbours with the same configuration share a version of the plugin.
pub(crate) async fn play(
    engine: &Engine,
    module: &Module,
    cases: &[Placed],
    lines: &Lines,
    mut tell: impl FnMut(&Placed, Outcome) -> Result<()>,
) -> Result<()> {
    let empty = json!({});
    let config = |placed: &Placed| placed.case.config.clone().unwrap_or_else(|| empty.clone());
    let mut plugins = 0usize;
    for same in cases.chunk_by(|one, other| config(one) == config(other)) {
        for some in same.chunks(CASES) {
            let Some(first) = some.first() else { continue };
            plugins += 1;
            let loaded = load(engine, module, &config(first), plugins).await?;
            lines.take();
            for placed in some {
                let began = Instant::now();
                let differences = match &loaded {
                    Ok(configured) => case(configured, &placed.case, lines).await?,
                    Err(problems) => of_refusal(&placed.case.expect, problems),
                };
                tell(placed, Outcome { differences, took: began.elapsed() })?;
            }
        }
    }
    Ok(())
}

async fn load(
    engine: &Engine,
    module: &Module,
    config: &Value,
    number: usize,
) -> Result<Result<Arc<Configured>, Vec<Problem>>> {
    let name = format!("plugin-{number}");
    let settings =
        Settings { name: &name, config, instance: InstanceMode::Fresh, run_time: RUN_TIME, deadline: DEADLINE };
    engine.load(module, &settings).await
}

fn of_refusal(expect: &Expect, problems: &[Problem]) -> Vec<String> {
    let reasons: Vec<String> = problems.iter().map(sentence).collect();
    match &expect.refused {
        Some(wanted) if reasons.iter().any(|reason| reason.contains(wanted)) => Vec::new(),
        Some(wanted) => vec![differs("refused", wanted, &reasons.join("; "))],
        None => vec![format!("the plugin is not ready: {}", reasons.join("; "))],
    }
}

async fn case(configured: &Arc<Configured>, case: &Case, lines: &Lines) -> Result<Vec<String>> {
    if let Some(wanted) = &case.expect.refused {
        return Ok(vec![format!("refused: expected a reason with `{wanted}` in it, but the configuration was taken")]);
    }
    let end = exchange(configured, case).await;
    let logged = lines.take();
    let mut found = Differences::default();
    if let Some(wanted) = &case.expect.log {
        found.log(wanted, &logged);
    }
    match (end, &case.expect.failure) {
        (Err(Stop::Case(error)), _) => return Err(error.context(format!("case `{}`", case.name))),
        (Err(Stop::Plugin(error)), Some(wanted)) => {
            found.check(error.to_string().contains(wanted), || differs("failure", wanted, &error.to_string()));
        }
        (Err(Stop::Plugin(error)), None) => {
            found.0.push(error.to_string());
            found.0.extend(logged.iter().map(|line| format!("log: {line}")));
        }
        (Ok(_), Some(wanted)) => found.0.push(format!("failure: expected one with `{wanted}`, but nothing failed")),
        (Ok(end), None) => found.end(&case.expect, &end),
    }
    Ok(found.0)
}

/// How an exchange ended.
struct End {
    decision: Wish,
    /// As the backend got it; none where it got none.
    request: Option<PlainRequest>,
    request_body: Bytes,
    response: PlainResponse,
    response_body: Bytes,
    trailers: HeaderMap,
    attributes: Attributes,
}

enum Stop {
    /// The case can't be played.
    Case(anyhow::Error),
    /// The plugin failed.
    Plugin(PluginError),
}

impl From<PluginError> for Stop {
    fn from(error: PluginError) -> Stop {
        Stop::Plugin(error)
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Stop {
        Stop::Case(error)
    }
}

async fn exchange(configured: &Arc<Configured>, case: &Case) -> Result<End, Stop> {
    let mut exchange = Exchange::new(request(case, configured)?);
    for (name, value) in &case.request.attributes {
        let set = exchange.attributes.set(name, value.to_host());
        set.map_err(|reason| anyhow::anyhow!("request.attributes.{name}: {reason}"))?;
    }
    let mut invocation = configured.begin();
    let mut body = Pieces::of(&case.request.body);
    exchange.request_ends = body.is_empty();
    let mut decision = Wish::Continue;
    let mut answer = asked(&mut invocation, &mut exchange, &mut body).await?;
    let request = seen(&exchange);
    if answer.is_none() && invocation.streams_request() && !body.is_empty() {
        match passed(&mut invocation, &mut exchange, &mut body, true).await? {
            Decision::Respond(reply) => answer = Some(*reply),
            Decision::Abort => decision = Wish::Abort,
            Decision::Continue | Decision::ReadBody(_) => {}
        }
    }
    if answer.is_some() {
        decision = Wish::Respond;
    }
    let bytes_received = body.whole().len() as u64;
    let own = match decision {
        Wish::Abort => Some(LocalReply { status: StatusCode::BAD_GATEWAY, ..LocalReply::default() }),
        _ => answer,
    };
    let is_own = own.is_some();
    let (head, mut response_body) = match own {
        Some(LocalReply { status, headers, body }) => (PlainResponse { status, headers }, Pieces(vec![body])),
        None => (response(case)?, Pieces::of(&case.response.body)),
    };
    exchange.put_response(Box::new(head));
    if let Some(reply) = answered(&mut invocation, &mut exchange, &case.request.method, &mut response_body).await? {
        let LocalReply { status, headers, body } = reply;
        response_body = Pieces(vec![body]);
        exchange.put_response(Box::new(PlainResponse { status, headers }));
    }
    if invocation.streams_response() && !response_body.is_empty() {
        let passed = passed(&mut invocation, &mut exchange, &mut response_body, false).await?;
        if let Decision::Abort = passed {
            decision = Wish::Abort;
        }
    }
    let mut trailers = fields(&case.response.trailers).context("response.trailers")?;
    if is_own {
        trailers.clear();
    } else if !trailers.is_empty() && decision != Wish::Abort {
        invocation.on_response_trailers(&mut exchange, &mut trailers, &mut Bytes::new()).await?;
    }
    let response_body = response_body.whole();
    let duration = Duration::from_millis(1);
    let summary = Summary { duration, bytes_received, bytes_sent: response_body.len() as u64, reason: None };
    invocation.on_log(&mut exchange, summary).await?;
    let attributes = std::mem::take(&mut exchange.attributes);
    let response = exchange.take_response::<PlainResponse>().context("the engine lost the response")?;
    let request = request.filter(|_| decision == Wish::Continue);
    let request_body = body.whole();
    Ok(End { decision, request, request_body, response: *response, response_body, trailers, attributes })
}

/// A body in the pieces in which it comes.
struct Pieces(Vec<Bytes>);

impl Pieces {
    fn of(body: &Values) -> Pieces {
        Pieces(body.all().iter().map(|piece| Bytes::from(piece.clone())).collect())
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(Bytes::is_empty)
    }

    fn whole(&self) -> Bytes {
        self.0.concat().into()
    }
}

/// The request's phases before the request goes on. `Some`: what is answered.
async fn asked(
    invocation: &mut Invocation,
    exchange: &mut Exchange,
    body: &mut Pieces,
) -> Result<Option<LocalReply>, PluginError> {
    let wish = match invocation.on_request(exchange).await? {
        Decision::Continue | Decision::Abort => return Ok(None),
        Decision::Respond(reply) => return Ok(Some(*reply)),
        Decision::ReadBody(wish) => wish,
    };
    let whole = body.whole();
    if whole.len() as u64 > wish.limit {
        let refused = LocalReply { status: StatusCode::PAYLOAD_TOO_LARGE, ..LocalReply::default() };
        return Ok((wish.over_limit == OverLimit::Refuse).then_some(refused));
    }
    invocation.skip_request_pieces();
    let outcome = invocation.on_request_body(exchange, whole).await?;
    if let Some(replacement) = outcome.replacement {
        *body = Pieces(vec![replacement]);
    }
    Ok(match outcome.decision {
        Decision::Respond(reply) => Some(*reply),
        Decision::Continue | Decision::ReadBody(_) | Decision::Abort => None,
    })
}

/// Lets a body pass piece by piece; until the plugin decides something else.
async fn passed(
    invocation: &mut Invocation,
    exchange: &mut Exchange,
    body: &mut Pieces,
    of_request: bool,
) -> Result<Decision, PluginError> {
    let count = body.0.len();
    for (n, piece) in body.0.iter_mut().enumerate() {
        let last = n + 1 == count;
        let decision = match of_request {
            true => invocation.on_request_piece(exchange, piece, last).await?,
            false => invocation.on_response_piece(exchange, piece, last).await?,
        };
        if !matches!(decision, Decision::Continue) {
            return Ok(decision);
        }
    }
    Ok(Decision::Continue)
}

/// The phases of a response that is there with its body. `Some`: what is answered instead.
async fn answered(
    invocation: &mut Invocation,
    exchange: &mut Exchange,
    method: &str,
    body: &mut Pieces,
) -> Result<Option<LocalReply>, PluginError> {
    let wish = match invocation.on_response(exchange).await? {
        Decision::Continue | Decision::Abort => return Ok(None),
        Decision::Respond(reply) => return Ok(Some(*reply)),
        Decision::ReadBody(wish) => wish,
    };
    let status = exchange.response().map(|response| response.status());
    let has_none = matches!(status, Some(StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)) || method == "HEAD";
    if has_none {
        return Ok(None);
    }
    let whole = body.whole();
    if whole.len() as u64 > wish.limit {
        let refused = LocalReply { status: StatusCode::BAD_GATEWAY, ..LocalReply::default() };
        return Ok((wish.over_limit == OverLimit::Refuse).then_some(refused));
    }
    invocation.skip_response_pieces();
    let outcome = invocation.on_response_body(exchange, whole).await?;
    if let Some(replacement) = outcome.replacement {
        *body = Pieces(vec![replacement]);
    }
    Ok(match outcome.decision {
        Decision::Respond(reply) => Some(*reply),
        Decision::Continue | Decision::ReadBody(_) | Decision::Abort => None,
    })
}

/// The request as it is now.
fn seen(exchange: &Exchange) -> Option<PlainRequest> {
    let request = exchange.request()?;
    Some(PlainRequest {
        method: request.method().to_owned(),
        scheme: request.scheme().to_owned(),
        authority: request.authority().to_owned(),
        path: request.path().to_owned(),
        query: request.query().map(str::to_owned),
        headers: request.headers().clone(),
        properties: Vec::new(),
    })
}

/// Without the headers that the plugin says are its own, as the gateway has it.
fn request(case: &Case, configured: &Configured) -> Result<PlainRequest> {
    let part = &case.request;
    if !part.path.starts_with('/') {
        bail!("request.path: `{}` does not begin with a slash", part.path);
    }
    let mut headers = fields(&part.headers).context("request.headers")?;
    for name in configured.owned_headers() {
        headers.remove(name);
    }
    Ok(PlainRequest {
        method: part.method.clone(),
        scheme: part.scheme.clone(),
        authority: part.authority.clone(),
        headers,
        properties: part.properties.clone().into_iter().collect(),
        ..PlainRequest::get(&part.path)
    })
}

fn response(case: &Case) -> Result<PlainResponse> {
    let status = StatusCode::from_u16(case.response.status).ok().filter(|status| status.as_u16() >= 200);
    let status = status.with_context(|| format!("response.status: {} is none", case.response.status))?;
    Ok(PlainResponse { status, headers: fields(&case.response.headers).context("response.headers")? })
}

fn fields(fields: &IndexMap<String, Values>) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, values) in fields {
        let header: HeaderName = name.parse().with_context(|| format!("`{name}`"))?;
        for value in values.all() {
            let value = HeaderValue::from_bytes(value.as_bytes()).with_context(|| format!("`{name}`"))?;
            headers.append(header.clone(), value);
        }
    }
    Ok(headers)
}

impl Attribute {
    fn to_host(&self) -> AttributeValue {
        match self {
            Attribute::Boolean(value) => AttributeValue::Boolean(*value),
            Attribute::Integer(value) => AttributeValue::Integer(*value),
            Attribute::String(value) => AttributeValue::String(value.as_str().into()),
        }
    }
}

#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn check(&mut self, holds: bool, difference: impl FnOnce() -> String) {
        if !holds {
            self.0.push(difference());
        }
    }

    fn end(&mut self, expect: &Expect, end: &End) {
        if let Some(wanted) = expect.decision {
            self.check(wanted == end.decision, || differs("decision", word(wanted), word(end.decision)));
        }
        if let Some(wanted) = expect.status {
            let status = end.response.status.as_u16();
            self.check(wanted == status, || differs("status", &wanted.to_string(), &status.to_string()));
        }
        self.headers("headers", &expect.headers, &end.response.headers);
        if let Some(wanted) = &expect.body {
            self.text("body", wanted, &String::from_utf8_lossy(&end.response_body));
        }
        self.headers("trailers", &expect.trailers, &end.trailers);
        if let Some(wanted) = &expect.request {
            match &end.request {
                Some(request) => {
                    if let Some(wanted) = &wanted.path {
                        let query = request.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
                        self.text("request.path", wanted, &format!("{}{query}", request.path));
                    }
                    self.headers("request.headers", &wanted.headers, &request.headers);
                    if let Some(wanted) = &wanted.body {
                        self.text("request.body", wanted, &String::from_utf8_lossy(&end.request_body));
                    }
                }
                None => self.0.push("request: the plugin ended it, no whole request reached the backend".to_owned()),
            }
        }
        for (name, wanted) in &expect.attributes {
            let found = end.attributes.get(name);
            let holds = wanted.as_ref().map(Attribute::to_host).as_ref() == found;
            self.check(holds, || {
                let wanted = wanted.as_ref().map_or("none".to_owned(), |wanted| shown(&wanted.to_host()));
                differs(&format!("attributes.{name}"), &wanted, &found.map_or("none".to_owned(), shown))
            });
        }
    }

    fn headers(&mut self, place: &str, wanted: &IndexMap<String, Option<Wanted>>, headers: &HeaderMap) {
        for (name, wanted) in wanted {
            let place = format!("{place}.{name}");
            let found: Vec<String> = headers
                .get_all(name.as_str())
                .iter()
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .collect();
            match (wanted, &found[..]) {
                (None, []) => {}
                (None, found) => self.0.push(differs(&place, "none", &found.join(", "))),
                (Some(Wanted::Several(wanted)), found) => {
                    self.check(wanted == found, || differs(&place, &wanted.join(", "), &found.join(", ")));
                }
                (Some(wanted), [found]) => self.text(&place, wanted, found),
                (Some(_), []) => self.0.push(format!("{place}: the header is not there")),
                (Some(_), found) => {
                    self.0.push(format!("{place}: the header is there {} times: {}", found.len(), found.join(", ")));
                }
            }
        }
    }

    fn text(&mut self, place: &str, wanted: &Wanted, found: &str) {
        match wanted {
            Wanted::Text(text) => self.check(text == found, || differs(place, text, found)),
            Wanted::Several(texts) => self.check(texts.concat() == found, || differs(place, &texts.concat(), found)),
            Wanted::Matching(matching) => self.check(matching.matches.is_match(found), || {
                format!("{place}: `{found}` does not match `{}`", matching.matches)
            }),
        }
    }

    fn log(&mut self, wanted: &[String], logged: &[String]) {
        if wanted.is_empty() {
            self.check(logged.is_empty(), || differs("log", "nothing", &logged.join("\n")));
        }
        for text in wanted {
            self.check(logged.iter().any(|line| line.contains(text)), || {
                let lines = if logged.is_empty() { "nothing was logged".to_owned() } else { logged.join(" | ") };
                format!("log: no line has `{text}` in it: {lines}")
            });
        }
    }
}

fn word(decision: Wish) -> &'static str {
    match decision {
        Wish::Continue => "continue",
        Wish::Respond => "respond",
        Wish::Abort => "abort",
    }
}

fn shown(value: &AttributeValue) -> String {
    match value {
        AttributeValue::String(text) => format!("{text:?}"),
        AttributeValue::Integer(number) => number.to_string(),
        AttributeValue::Boolean(value) => value.to_string(),
    }
}

/// In one line where both fit, else line by line.
fn differs(place: &str, wanted: &str, found: &str) -> String {
    let (wanted, found) = (wanted.trim_end_matches('\n'), found.trim_end_matches('\n'));
    if wanted.contains('\n') || found.contains('\n') {
        let lines = |mark: char, text: &str| text.lines().map(|line| format!("\n  {mark} {line}")).collect::<String>();
        return format!("{place}:{}{}", lines('-', wanted), lines('+', found));
    }
    format!("{place}: expected `{wanted}`, got `{found}`")
}
