//! The host's side of the contract (`sdk/wit`): what a guest's handles do.
//!
//! Request, response, body and summary exist once a store, so their handles carry no index: a guest can only hold one
//! while it is called with it. Replies and decisions are the guest's own and live in a small table.

#![allow(unreachable_pub, reason = "the generated bindings re-export the handles' types")]

use crate::attributes::AttributeValue;
use crate::configured::{Export, Phases};
use crate::decision::LocalReply;
use crate::exchange::{RequestView, ResponseView};
use crate::fields::{self, Refused, all, every, field, first};
use crate::instance::{State, broken};
use bytes::Bytes;
use generated::sluice::plugin::{attributes, logging, types};
use http::HeaderMap;
use tracing::Level;
use wasmtime::component::{
    ComponentExportIndex, ComponentNamedList, HasSelf, Instance, Lift, Linker, Lower, Resource, TypedFunc,
};
use wasmtime::{Result, Store};

mod bodies;

/// Generated from the contract.
#[allow(clippy::all, missing_docs)]
pub(crate) mod generated {
    wasmtime::component::bindgen!({
        path: "../../sdk/wit",
        world: "plugin",
        imports: { "sluice:plugin/outgoing.fetch": async | trappable, default: trappable },
        with: {
            "sluice:plugin/types.request": super::Request,
            "sluice:plugin/types.response": super::Response,
            "sluice:plugin/types.body": super::Body,
            "sluice:plugin/types.piece": super::Piece,
            "sluice:plugin/types.trailers": super::Trailers,
            "sluice:plugin/types.summary": super::End,
            "sluice:plugin/types.local-reply": super::Reply,
            "sluice:plugin/types.decision": super::Chosen,
            "sluice:plugin/outgoing.outgoing-request": crate::outgoing::OutgoingRequest,
            "sluice:plugin/outgoing.incoming-response": crate::outgoing::OutboundResponse,
            "sluice:plugin/outgoing.failure": crate::outgoing::FetchError,
            "sluice:plugin/store.bucket": crate::services::Bucket,
        },
    });
}

/// Stands for the one request of a store.
pub struct Request;
/// Stands for the one response of a store.
pub struct Response;
/// Stands for the one body of a store.
pub struct Body;
/// Stands for the one piece of a body of a store.
pub struct Piece;
/// Stands for the trailers of a store's response.
pub struct Trailers;
/// Stands for the one summary of a store.
pub struct End;

/// A reply that a guest is putting together.
#[derive(Default)]
pub struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

/// A decision that a guest made.
pub enum Chosen {
    Respond(Box<LocalReply>),
    ReadBody { limit: u64, pass_over_limit: bool },
    Abort,
}

/// Bytes of the body of a local reply.
const MAX_REPLY_BODY: u64 = 1 << 20;

/// Handles that are lent for a call have this index; it says nothing.
const THE_ONE: u32 = 0;

pub(crate) fn linker(engine: &wasmtime::Engine) -> Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    generated::Plugin::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
    Ok(linker)
}

/// What a phase decided, and what the phases are called with.
type Decided = (Option<Resource<Chosen>>,);
type OfBody = (Resource<Request>, Resource<Body>);
type OfResponse = (Resource<Request>, Resource<Response>);
type OfResponseBody = (Resource<Request>, Resource<Response>, Resource<Body>);
type OfRequestPiece = (Resource<Request>, Resource<Piece>);
type OfResponsePiece = (Resource<Request>, Resource<Response>, Resource<Piece>);
type OfTrailers = (Resource<Request>, Resource<Response>, Resource<Trailers>);
type OfLog = (Resource<Request>, Option<Resource<Response>>, Resource<End>);

/// The functions of an instance, looked up when first called.
#[derive(Default)]
pub(crate) struct Bound {
    request_headers: Option<TypedFunc<(Resource<Request>,), Decided>>,
    request_body: Option<TypedFunc<OfBody, Decided>>,
    request_piece: Option<TypedFunc<OfRequestPiece, Decided>>,
    response_headers: Option<TypedFunc<OfResponse, Decided>>,
    response_body: Option<TypedFunc<OfResponseBody, Decided>>,
    response_piece: Option<TypedFunc<OfResponsePiece, Decided>>,
    response_trailers: Option<TypedFunc<OfTrailers, ()>>,
    log: Option<TypedFunc<OfLog, ()>>,
}

/// A phase's function, looked up once an instance.
fn function<'b, P: ComponentNamedList + Lower, R: ComponentNamedList + Lift>(
    bound: &'b mut Option<TypedFunc<P, R>>,
    export: Option<&ComponentExportIndex>,
    store: &mut Store<State>,
    instance: &Instance,
) -> Result<&'b TypedFunc<P, R>> {
    match bound {
        Some(function) => Ok(function),
        None => match export {
            Some(export) => Ok(bound.insert(instance.get_typed_func(store, export)?)),
            None => Err(broken("the phase is not exported")),
        },
    }
}

/// Makes the call of a phase, once for guests that never wait and once for those that may.
macro_rules! caller {
    ($(#[$doc:meta])* $name:ident: $call:ident $(, $async:ident, $await:ident)?) => {
        $(#[$doc])*
        pub(crate) $($async)? fn $name(
            &mut self,
            store: &mut Store<State>,
            instance: &Instance,
            phases: &Phases,
            called: Export,
            has_response: bool,
        ) -> Result<Option<Chosen>> {
            // Borrowed, never owned: an owned handle passed to a borrow stays in the store's table, a leak a call.
            let request = Resource::<Request>::new_borrow(THE_ONE);
            let export = phases.export(called);
            let (decision,) = match called {
                Export::RequestHeaders => {
                    let function = function(&mut self.request_headers, export, store, instance)?;
                    function.$call(&mut *store, (request,))$(.$await)??
                }
                Export::RequestBody => {
                    let body = Resource::<Body>::new_borrow(THE_ONE);
                    let function = function(&mut self.request_body, export, store, instance)?;
                    function.$call(&mut *store, (request, body))$(.$await)??
                }
                Export::ResponseHeaders => {
                    let response = Resource::<Response>::new_borrow(THE_ONE);
                    let function = function(&mut self.response_headers, export, store, instance)?;
                    function.$call(&mut *store, (request, response))$(.$await)??
                }
                Export::ResponseBody => {
                    let response = Resource::<Response>::new_borrow(THE_ONE);
                    let body = Resource::<Body>::new_borrow(THE_ONE);
                    let function = function(&mut self.response_body, export, store, instance)?;
                    function.$call(&mut *store, (request, response, body))$(.$await)??
                }
                Export::RequestPiece => {
                    let piece = Resource::<Piece>::new_borrow(THE_ONE);
                    let function = function(&mut self.request_piece, export, store, instance)?;
                    function.$call(&mut *store, (request, piece))$(.$await)??
                }
                Export::ResponsePiece => {
                    let response = Resource::<Response>::new_borrow(THE_ONE);
                    let piece = Resource::<Piece>::new_borrow(THE_ONE);
                    let function = function(&mut self.response_piece, export, store, instance)?;
                    function.$call(&mut *store, (request, response, piece))$(.$await)??
                }
                Export::ResponseTrailers => {
                    let response = Resource::<Response>::new_borrow(THE_ONE);
                    let trailers = Resource::<Trailers>::new_borrow(THE_ONE);
                    let function = function(&mut self.response_trailers, export, store, instance)?;
                    function.$call(&mut *store, (request, response, trailers))$(.$await)??;
                    (None,)
                }
                Export::Log => {
                    let response = has_response.then(|| Resource::<Response>::new_borrow(THE_ONE));
                    let summary = Resource::<End>::new_borrow(THE_ONE);
                    let function = function(&mut self.log, export, store, instance)?;
                    function.$call(&mut *store, (request, response, summary))$(.$await)??;
                    (None,)
                }
            };
            decision.map(|decision| Ok(store.data_mut().owned.delete(decision)?)).transpose()
        }
    };
}

impl Bound {
    caller! {
        /// Calls one phase, and takes the decision out of the guest's table.
        call: call
    }

    caller! {
        /// The same on a fiber: host functions may wait, and a guest that runs long yields to others.
        call_waiting: call_async, async, await
    }
}

type Answer<T = ()> = std::result::Result<T, String>;

/// Refusals are the guest's to handle; the text tells its author why.
fn answer<T>(result: std::result::Result<T, Refused>) -> Result<Answer<T>> {
    Ok(result.map_err(|refused| refused.to_string()))
}

impl State {
    fn request(&self) -> Result<&dyn RequestView> {
        self.exchange.request.as_deref().ok_or_else(|| broken("there is no request in this phase"))
    }

    /// The request, where it may be changed.
    fn request_mut(&mut self) -> Result<std::result::Result<&mut dyn RequestView, Refused>> {
        let open = matches!(self.phase, Some(Export::RequestHeaders | Export::RequestBody));
        match &mut self.exchange.request {
            Some(_) if !open => Ok(Err(Refused::RequestSent)),
            Some(request) => Ok(Ok(&mut **request)),
            None => Err(broken("there is no request in this phase")),
        }
    }

    fn response(&self) -> Result<&dyn ResponseView> {
        self.exchange.response.as_deref().ok_or_else(|| broken("there is no response in this phase"))
    }

    fn response_mut(&mut self) -> Result<std::result::Result<&mut dyn ResponseView, Refused>> {
        let open = matches!(self.phase, Some(Export::ResponseHeaders | Export::ResponseBody));
        match &mut self.exchange.response {
            Some(_) if !open => Ok(Err(Refused::ResponseSent)),
            Some(response) => Ok(Ok(&mut **response)),
            None => Err(broken("there is no response in this phase")),
        }
    }
}

impl types::Host for State {}

impl types::HostRequest for State {
    fn method(&mut self, _: Resource<Request>) -> Result<String> {
        Ok(self.request()?.method().to_owned())
    }

    fn scheme(&mut self, _: Resource<Request>) -> Result<String> {
        Ok(self.request()?.scheme().to_owned())
    }

    fn authority(&mut self, _: Resource<Request>) -> Result<String> {
        Ok(self.request()?.authority().to_owned())
    }

    fn path(&mut self, _: Resource<Request>) -> Result<String> {
        Ok(self.request()?.path().to_owned())
    }

    fn query(&mut self, _: Resource<Request>) -> Result<Option<String>> {
        Ok(self.request()?.query().map(str::to_owned))
    }

    fn property(&mut self, _: Resource<Request>, name: String) -> Result<Option<String>> {
        Ok(self.request()?.property(&name).map(std::borrow::Cow::into_owned))
    }

    fn set_path(&mut self, _: Resource<Request>, path: String) -> Result<Answer> {
        let request = self.request_mut()?;
        answer(request.and_then(|request| fields::path(&path).and_then(|()| request.set_path(&path))))
    }

    fn set_query(&mut self, _: Resource<Request>, query: Option<String>) -> Result<Answer> {
        let request = self.request_mut()?;
        let query = query.as_deref();
        answer(request.and_then(|request| query.map_or(Ok(()), fields::query).and_then(|()| request.set_query(query))))
    }

    fn header(&mut self, _: Resource<Request>, name: String) -> Result<Option<Vec<u8>>> {
        Ok(first(self.request()?.headers(), &name))
    }

    fn header_values(&mut self, _: Resource<Request>, name: String) -> Result<Vec<Vec<u8>>> {
        Ok(every(self.request()?.headers(), &name))
    }

    fn headers(&mut self, _: Resource<Request>) -> Result<Vec<(String, Vec<u8>)>> {
        Ok(all(self.request()?.headers()))
    }

    fn set_header(&mut self, _: Resource<Request>, name: String, value: Vec<u8>) -> Result<Answer> {
        let request = self.request_mut()?;
        answer(request.and_then(|request| {
            field(request.headers(), &name, value).map(|(name, value)| request.set_header(name, value))
        }))
    }

    fn append_header(&mut self, _: Resource<Request>, name: String, value: Vec<u8>) -> Result<Answer> {
        let request = self.request_mut()?;
        answer(request.and_then(|request| {
            field(request.headers(), &name, value).map(|(name, value)| request.append_header(name, value))
        }))
    }

    fn remove_header(&mut self, _: Resource<Request>, name: String) -> Result<Answer> {
        let request = self.request_mut()?;
        answer(request.and_then(|request| fields::name(&name).map(|name| request.remove_header(&name))))
    }

    fn drop(&mut self, _: Resource<Request>) -> Result<()> {
        Ok(())
    }
}

impl types::HostResponse for State {
    fn status(&mut self, _: Resource<Response>) -> Result<u16> {
        Ok(self.response()?.status().as_u16())
    }

    fn set_status(&mut self, _: Resource<Response>, status: u16) -> Result<Answer> {
        let response = self.response_mut()?;
        answer(response.and_then(|response| fields::status(status).map(|status| response.set_status(status))))
    }

    fn header(&mut self, _: Resource<Response>, name: String) -> Result<Option<Vec<u8>>> {
        Ok(first(self.response()?.headers(), &name))
    }

    fn header_values(&mut self, _: Resource<Response>, name: String) -> Result<Vec<Vec<u8>>> {
        Ok(every(self.response()?.headers(), &name))
    }

    fn headers(&mut self, _: Resource<Response>) -> Result<Vec<(String, Vec<u8>)>> {
        Ok(all(self.response()?.headers()))
    }

    fn set_header(&mut self, _: Resource<Response>, name: String, value: Vec<u8>) -> Result<Answer> {
        let response = self.response_mut()?;
        answer(response.and_then(|response| {
            field(response.headers(), &name, value).map(|(name, value)| response.set_header(name, value))
        }))
    }

    fn append_header(&mut self, _: Resource<Response>, name: String, value: Vec<u8>) -> Result<Answer> {
        let response = self.response_mut()?;
        answer(response.and_then(|response| {
            field(response.headers(), &name, value).map(|(name, value)| response.append_header(name, value))
        }))
    }

    fn remove_header(&mut self, _: Resource<Response>, name: String) -> Result<Answer> {
        let response = self.response_mut()?;
        answer(response.and_then(|response| fields::name(&name).map(|name| response.remove_header(&name))))
    }

    fn drop(&mut self, _: Resource<Response>) -> Result<()> {
        Ok(())
    }
}

impl types::HostLocalReply for State {
    fn new(&mut self, status: u16) -> Result<Resource<Reply>> {
        Ok(self.owned.push(Reply { status, ..Reply::default() })?)
    }

    fn set_header(&mut self, reply: Resource<Reply>, name: String, value: Vec<u8>) -> Result<Answer> {
        let reply = self.owned.get_mut(&reply)?;
        answer(field(&reply.headers, &name, value).map(|(name, value)| {
            reply.headers.insert(name, value);
        }))
    }

    fn append_header(&mut self, reply: Resource<Reply>, name: String, value: Vec<u8>) -> Result<Answer> {
        let reply = self.owned.get_mut(&reply)?;
        answer(field(&reply.headers, &name, value).map(|(name, value)| {
            reply.headers.append(name, value);
        }))
    }

    fn set_body(&mut self, reply: Resource<Reply>, content: Vec<u8>) -> Result<Answer> {
        let reply = self.owned.get_mut(&reply)?;
        if content.len() as u64 > MAX_REPLY_BODY {
            return answer(Err(Refused::Body(MAX_REPLY_BODY)));
        }
        reply.body = content.into();
        Ok(Ok(()))
    }

    fn drop(&mut self, reply: Resource<Reply>) -> Result<()> {
        self.owned.delete(reply)?;
        Ok(())
    }
}

impl types::HostDecision for State {
    fn respond(&mut self, reply: Resource<Reply>) -> Result<Resource<Chosen>> {
        let Reply { status, headers, body } = self.owned.delete(reply)?;
        let status = fields::status(status).map_err(|refused| broken(refused.to_string()))?;
        Ok(self.owned.push(Chosen::Respond(Box::new(LocalReply { status, headers, body })))?)
    }

    fn read_body(&mut self, limit: u64) -> Result<Resource<Chosen>> {
        Ok(self.owned.push(Chosen::ReadBody { limit, pass_over_limit: false })?)
    }

    fn abort(&mut self) -> Result<Resource<Chosen>> {
        Ok(self.owned.push(Chosen::Abort)?)
    }

    fn pass_over_limit(&mut self, decision: Resource<Chosen>) -> Result<()> {
        match self.owned.get_mut(&decision)? {
            Chosen::ReadBody { pass_over_limit, .. } => *pass_over_limit = true,
            Chosen::Respond(_) | Chosen::Abort => {
                return Err(broken("pass-over-limit belongs to a decision to read the body"));
            }
        }
        Ok(())
    }

    fn drop(&mut self, decision: Resource<Chosen>) -> Result<()> {
        self.owned.delete(decision)?;
        Ok(())
    }
}

impl types::HostSummary for State {
    fn duration(&mut self, _: Resource<End>) -> Result<u64> {
        Ok(u64::try_from(self.summary.duration.as_nanos()).unwrap_or(u64::MAX))
    }

    fn bytes_received(&mut self, _: Resource<End>) -> Result<u64> {
        Ok(self.summary.bytes_received)
    }

    fn bytes_sent(&mut self, _: Resource<End>) -> Result<u64> {
        Ok(self.summary.bytes_sent)
    }

    fn reason(&mut self, _: Resource<End>) -> Result<Option<String>> {
        Ok(self.summary.reason.map(str::to_owned))
    }

    fn drop(&mut self, _: Resource<End>) -> Result<()> {
        Ok(())
    }
}

impl State {
    fn set_attribute(&mut self, name: &str, value: AttributeValue) -> Result<Answer> {
        Ok(self.attributes()?.set(name, value).map_err(str::to_owned))
    }
}

impl attributes::Host for State {
    fn get_string(&mut self, name: String) -> Result<Option<String>> {
        Ok(match self.attributes()?.get(&name) {
            Some(AttributeValue::String(text)) => Some(text.to_string()),
            _ => None,
        })
    }

    fn set_string(&mut self, name: String, value: String) -> Result<Answer> {
        self.set_attribute(&name, AttributeValue::String(value.into()))
    }

    fn get_integer(&mut self, name: String) -> Result<Option<i64>> {
        Ok(match self.attributes()?.get(&name) {
            Some(AttributeValue::Integer(value)) => Some(*value),
            _ => None,
        })
    }

    fn set_integer(&mut self, name: String, value: i64) -> Result<Answer> {
        self.set_attribute(&name, AttributeValue::Integer(value))
    }

    fn get_boolean(&mut self, name: String) -> Result<Option<bool>> {
        Ok(match self.attributes()?.get(&name) {
            Some(AttributeValue::Boolean(value)) => Some(*value),
            _ => None,
        })
    }

    fn set_boolean(&mut self, name: String, value: bool) -> Result<Answer> {
        self.set_attribute(&name, AttributeValue::Boolean(value))
    }

    fn remove(&mut self, name: String) -> Result<()> {
        self.attributes()?.remove(&name);
        Ok(())
    }
}

impl logging::Host for State {
    fn error(&mut self, message: String) -> Result<()> {
        self.log.line(Level::ERROR, &message);
        Ok(())
    }

    fn warn(&mut self, message: String) -> Result<()> {
        self.log.line(Level::WARN, &message);
        Ok(())
    }

    fn info(&mut self, message: String) -> Result<()> {
        self.log.line(Level::INFO, &message);
        Ok(())
    }

    fn debug(&mut self, message: String) -> Result<()> {
        self.log.line(Level::DEBUG, &message);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::types::{HostRequest, HostResponse};
    use super::*;
    use crate::instance::PluginLog;
    use crate::limits::Limits;
    use crate::metrics::Metrics;
    use crate::{PlainRequest, PlainResponse};
    use sluice_model::plugin::PluginKey;
    use std::sync::Arc;

    fn state(phase: Export) -> State {
        let key = PluginKey::new("test", "test");
        let metrics = Arc::new(Metrics::default().plugin(&key));
        let mut state = State::new(Limits::uncounted(0), 0, Arc::new(PluginLog::new(key, metrics)));
        state.exchange.put_request(Box::new(PlainRequest::get("/")));
        state.exchange.put_response(Box::new(PlainResponse::default()));
        state.phase = Some(phase);
        state
    }

    fn request() -> Resource<Request> {
        Resource::new_borrow(THE_ONE)
    }

    fn response() -> Resource<Response> {
        Resource::new_borrow(THE_ONE)
    }

    #[test]
    fn a_request_changes_in_the_request_phases_and_a_response_in_its_own() {
        for phase in Export::ALL {
            let mut state = state(phase);
            let is_request = matches!(phase, Export::RequestHeaders | Export::RequestBody);
            let changes = [
                state.set_path(request(), "/b".into()).unwrap().is_ok(),
                state.set_query(request(), None).unwrap().is_ok(),
                HostRequest::set_header(&mut state, request(), "x-a".into(), b"1".to_vec()).unwrap().is_ok(),
                HostRequest::append_header(&mut state, request(), "x-a".into(), b"2".to_vec()).unwrap().is_ok(),
                HostRequest::remove_header(&mut state, request(), "x-b".into()).unwrap().is_ok(),
            ];
            assert_eq!(changes, [is_request; 5], "{phase:?}");
            let is_response = matches!(phase, Export::ResponseHeaders | Export::ResponseBody);
            let changes = [
                state.set_status(response(), 204).unwrap().is_ok(),
                HostResponse::set_header(&mut state, response(), "x-a".into(), b"1".to_vec()).unwrap().is_ok(),
                HostResponse::append_header(&mut state, response(), "x-a".into(), b"2".to_vec()).unwrap().is_ok(),
                HostResponse::remove_header(&mut state, response(), "x-b".into()).unwrap().is_ok(),
            ];
            assert_eq!(changes, [is_response; 4], "{phase:?}");
        }
    }

    #[test]
    fn a_guest_can_hold_only_a_few_replies() {
        let mut state = state(Export::RequestHeaders);
        let held: Vec<_> = (0..100).map_while(|_| types::HostLocalReply::new(&mut state, 403).ok()).collect();
        assert_eq!(held.len(), 16);
    }

    #[test]
    fn a_replys_body_is_bounded() {
        let mut state = state(Export::RequestHeaders);
        let reply = types::HostLocalReply::new(&mut state, 403).unwrap();
        let borrowed = || Resource::new_borrow(reply.rep());
        let most = MAX_REPLY_BODY as usize;
        assert!(types::HostLocalReply::set_body(&mut state, borrowed(), vec![0; most]).unwrap().is_ok());
        assert!(types::HostLocalReply::set_body(&mut state, borrowed(), vec![0; most + 1]).unwrap().is_err());
    }
}
