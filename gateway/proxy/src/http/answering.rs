//! A response whose plugins decide on it as it is written: it stands in the place of the client's session, between the
//! engine's filters and the wire.
//!
//! ```text
//! engine ─► head, pieces, trailers ─► Holding ──whole, or above a limit that lets it pass──► Open ─► client's session
//!                                      │ nothing goes on; a plugin's answer, or a limit's, may still take its place
//! ```
//!
//! The engine filters a head, waits for nothing in a piece of a body, and has sent the head by then. Here a head can be held
//! until a plugin has read the body, and plugins may wait.

use super::body::Unsent;
use super::context::{Reply, RequestContext};
use super::plugins::{self, Apart, Here, Kept, PluginRun, Run};
use super::replay::{Home, Replay};
use super::reply;
use super::respond::{self, Before};
use crate::metrics::{HeldBytes, RequestMetrics};
use crate::upstream::Deadline;
use ::http::HeaderMap;
use bytes::{Bytes, BytesMut};
use pingora_core::protocols::http::{HttpTask, ServerSession};
use pingora_core::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use sluice_model::Reason;
use sluice_wasm::{BodyRequest, OverLimit};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// The plugins of an exchange whose response is here. The request's body may still pass them: whichever side runs takes
/// them and puts them back, and as both run in one task, nobody ever waits for the lock.
#[derive(Clone, Default)]
pub(super) struct Place(Arc<Mutex<Option<Box<PluginRun>>>>);

impl Place {
    pub(super) fn take(&self) -> Option<Box<PluginRun>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn put(&self, plugins: Box<PluginRun>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(plugins);
    }
}

/// The context's end of it.
pub(super) struct Answered {
    home: Home,
    pub(super) plugins: Place,
}

pub(super) struct Answering {
    plugins: Place,
    kept: Kept,
    stage: Stage,
    /// The head as it came to the plugins.
    before: Before,
    /// What is left of the length that the head tells.
    unsent: Unsent,
    ends_apart: bool,
    /// Until when the endpoint is waited for: as for a head while that is held, then as the rule says.
    wait: Option<Deadline>,
    until: Option<Instant>,
    refused: Option<Reply>,
    head_at: Option<Instant>,
}

enum Stage {
    Holding(Box<Holding>),
    Open { bodiless: bool },
}

struct Holding {
    wish: BodyRequest,
    head: Option<Box<ResponseHeader>>,
    bytes: BytesMut,
    counted: HeldBytes,
}

/// Why a response does not go on.
enum Stop {
    Reply(Reply),
    Engine(Box<Error>),
}

impl From<Reply> for Stop {
    fn from(reply: Reply) -> Stop {
        Stop::Reply(reply)
    }
}

impl From<Box<Error>> for Stop {
    fn from(error: Box<Error>) -> Stop {
        Stop::Engine(error)
    }
}

/// Holds the response from its head on, because a plugin wants its body.
pub(super) fn hold(
    session: &mut Session,
    ctx: &mut RequestContext,
    before: Before,
    wish: BodyRequest,
    metrics: &Arc<RequestMetrics>,
) {
    let Some(mut run) = ctx.plugins.take() else { return };
    run.run().holds();
    let holding = Holding { wish, head: None, bytes: BytesMut::new(), counted: HeldBytes::none(metrics) };
    stand_in(session, ctx, run, Stage::Holding(Box::new(holding)), before, Unsent::default());
}

/// Lets the response pass plugins that wait, or see its trailers.
pub(super) fn open(session: &mut Session, ctx: &mut RequestContext, before: Before, unsent: Unsent) {
    let Some(run) = ctx.plugins.take() else { return };
    stand_in(session, ctx, run, Stage::Open { bodiless: false }, before, unsent);
}

fn stand_in(
    session: &mut Session,
    ctx: &mut RequestContext,
    mut run: Box<PluginRun>,
    stage: Stage,
    before: Before,
    unsent: Unsent,
) {
    if matches!(stage, Stage::Open { .. }) {
        run.run().shown_to_all();
    }
    let plugins = Place::default();
    plugins.put(run);
    let answering = Answering {
        plugins: plugins.clone(),
        kept: Kept::of(session, ctx),
        stage,
        before,
        unsent,
        ends_apart: ctx.ends_apart,
        wait: ctx.upstream.wait.as_ref().map(Deadline::share),
        until: [ctx.deadline, ctx.upstream.deadline].into_iter().flatten().min(),
        refused: None,
        head_at: None,
    };
    let home = Replay::put_answering(session, Box::new(answering));
    ctx.answering = Some(Answered { home, plugins });
}

/// The response is over, or given up: session and plugins go back to where they were. Whether there was one whose head may
/// not have been sent.
pub(super) fn end(session: &mut Session, ctx: &mut RequestContext) -> bool {
    let Some(Answered { home, plugins }) = ctx.answering.take() else { return false };
    let answering = home.restore(session);
    ctx.plugins = plugins.take();
    if let Some(answering) = answering {
        let Answering { kept, refused, head_at, .. } = *answering;
        kept.tell(ctx);
        ctx.refused = ctx.refused.take().or(refused);
        ctx.answered_at = ctx.answered_at.or(head_at);
    }
    true
}

impl Answering {
    /// Takes what the engine would write; writes what goes on. Whether that was all.
    pub(super) async fn write(&mut self, session: &mut ServerSession, tasks: Vec<HttpTask>) -> Result<bool> {
        let Some(mut plugins) = self.plugins.take() else {
            return Err(Error::explain(ErrorType::InternalError, "the plugins of a response are gone"));
        };
        let passed = Box::pin(self.pass(session, plugins.run(), tasks)).await;
        self.plugins.put(plugins);
        match passed {
            Ok(tasks) if tasks.is_empty() => Ok(false),
            Ok(tasks) => session.response_duplex_vec(tasks).await,
            Err(Stop::Engine(error)) => Err(error),
            Err(Stop::Reply(reply)) => {
                let error = Error::explain(ErrorType::InternalError, reply.reason.as_str());
                self.refused = Some(reply);
                Err(error)
            }
        }
    }

    async fn pass(
        &mut self,
        session: &mut ServerSession,
        run: &mut Run,
        tasks: Vec<HttpTask>,
    ) -> Result<Vec<HttpTask>, Stop> {
        let mut out = Vec::with_capacity(tasks.len() + 1);
        for task in tasks {
            match task {
                HttpTask::Header(head, false) if head.status.is_informational() => {
                    out.push(HttpTask::Header(head, false));
                }
                HttpTask::Header(head, end) => self.head(session, run, head, end, &mut out).await?,
                HttpTask::Body(piece, end) => self.piece(session, run, piece, end, &mut out).await?,
                HttpTask::Trailer(trailers) => self.trailers(session, run, trailers, &mut out).await?,
                HttpTask::Done => {
                    if matches!(self.stage, Stage::Holding(_)) {
                        self.advance(session, run, true, None, &mut out).await?;
                    }
                    out.push(HttpTask::Done);
                }
                HttpTask::Failed(error) if matches!(self.stage, Stage::Holding(_)) => return Err(error.into()),
                HttpTask::Failed(_) | HttpTask::UpgradedBody(..) => out.push(task),
            }
        }
        Ok(out)
    }

    async fn head(
        &mut self,
        session: &mut ServerSession,
        run: &mut Run,
        head: Box<ResponseHeader>,
        end: bool,
        out: &mut Vec<HttpTask>,
    ) -> Result<(), Stop> {
        let Stage::Holding(holding) = &mut self.stage else {
            run.goes_out(&head);
            out.push(HttpTask::Header(head, end));
            return Ok(());
        };
        holding.head = Some(head);
        if end { self.advance(session, run, true, None, out).await } else { Ok(()) }
    }

    async fn piece(
        &mut self,
        session: &mut ServerSession,
        run: &mut Run,
        piece: Option<Bytes>,
        end: bool,
        out: &mut Vec<HttpTask>,
    ) -> Result<(), Stop> {
        let mut bytes = piece.unwrap_or_default();
        if matches!(self.stage, Stage::Open { bodiless: true }) {
            bytes = Bytes::new();
        } else if (end || !bytes.is_empty()) && plugins::any_sees(run) {
            self.show(session, run, &mut bytes, end).await?;
        }
        let holding = match &mut self.stage {
            Stage::Holding(holding) => holding,
            Stage::Open { .. } if self.unsent.takes(bytes.len(), end) => {
                out.push(HttpTask::Body((!bytes.is_empty()).then_some(bytes), end));
                return Ok(());
            }
            Stage::Open { .. } => {
                tracing::debug!("a plugin changed the length of a response whose length was told");
                return Err(Reply::from(Reason::PluginFailed).into());
            }
        };
        holding.bytes.extend_from_slice(&bytes);
        if !holding.counted.add(bytes.len()) && !end {
            if !run.reader_fails_open() {
                return Err(Reply::from(Reason::PluginOverloaded).into());
            }
            // As one that is above its limit.
            holding.wish = BodyRequest { limit: 0, over_limit: OverLimit::Pass };
        }
        if end || holding.bytes.len() as u64 > holding.wish.limit {
            self.advance(session, run, end, None, out).await?;
        }
        Ok(())
    }

    /// Shows a piece to the plugins that have seen the head.
    async fn show(
        &mut self,
        session: &mut ServerSession,
        run: &mut Run,
        bytes: &mut Bytes,
        end: bool,
    ) -> Result<(), Stop> {
        let (to, apart) = (run.seen_by(), self.ends_apart);
        let mut place = Apart { session, kept: &mut self.kept };
        let shown = match &mut self.stage {
            Stage::Holding(holding) => {
                let head = run.lend_head(holding.head.as_deref_mut());
                let shown = plugins::pieces_apart(&mut place, run, to, bytes, end, apart, false).await;
                run.take_head(head);
                shown
            }
            Stage::Open { .. } => plugins::pieces_apart(&mut place, run, to, bytes, end, apart, false).await,
        };
        Ok(shown?)
    }

    async fn trailers(
        &mut self,
        session: &mut ServerSession,
        run: &mut Run,
        trailers: Option<Box<HeaderMap>>,
        out: &mut Vec<HttpTask>,
    ) -> Result<(), Stop> {
        let Some(mut trailers) = trailers else {
            if matches!(self.stage, Stage::Holding(_)) {
                self.advance(session, run, true, None, out).await?;
            }
            out.push(HttpTask::Trailer(None));
            return Ok(());
        };
        let (to, mut before) = (run.seen_by(), Bytes::new());
        let mut place = Apart { session: &mut *session, kept: &mut self.kept };
        match &mut self.stage {
            Stage::Holding(holding) => {
                let head = run.lend_head(holding.head.as_deref_mut());
                let outcome = plugins::trailers_to(&mut place, run, to, &mut trailers, &mut before).await;
                run.take_head(head);
                outcome?;
                holding.bytes.extend_from_slice(&before);
                self.advance(session, run, true, Some(&mut *trailers), out).await?;
            }
            Stage::Open { bodiless } => {
                plugins::trailers_to(&mut place, run, to, &mut trailers, &mut before).await?;
                if !self.unsent.takes(before.len(), true) {
                    return Err(Reply::from(Reason::PluginFailed).into());
                }
                if !before.is_empty() && !*bodiless {
                    out.push(HttpTask::Body(Some(before), false));
                }
            }
        }
        out.push(HttpTask::Trailer(Some(trailers)));
        Ok(())
    }

    /// What is held has become whole, or more than its reader wants: the plugins go on with it, and where none waits any
    /// longer it goes to the client.
    async fn advance(
        &mut self,
        session: &mut ServerSession,
        run: &mut Run,
        whole: bool,
        mut trailers: Option<&mut HeaderMap>,
        out: &mut Vec<HttpTask>,
    ) -> Result<(), Stop> {
        let Stage::Holding(holding) = &mut self.stage else { return Ok(()) };
        let Some(mut head) = holding.head.take() else {
            return Err(Error::explain(ErrorType::InternalError, "a body without a head").into());
        };
        let mut bytes = std::mem::take(&mut holding.bytes).freeze();
        let wish = holding.wish;
        let mut place = Apart { session: &mut *session, kept: &mut self.kept };
        let mut here = Here { bytes: &mut bytes, whole, trailers: trailers.as_deref_mut() };
        if let Some(wish) = plugins::go_on(&mut place, run, &mut head, &mut here, wish).await? {
            holding.wish = wish;
            holding.head = Some(head);
            holding.bytes = BytesMut::from(bytes);
            return Ok(());
        }
        plugins::show_all(&mut place, run, &mut head, &mut here).await?;
        let bodiless = if whole {
            let bodiless = reply::has_no_content(head.status);
            if bodiless {
                respond::unframe(&mut head);
                bytes.clear();
            } else {
                plugins::tell_length(&mut head, bytes.len())?;
            }
            bodiless
        } else {
            plugins::unframe_response(run, &mut head);
            let framed = respond::frame(session.req_header(), &mut head, &self.before)?;
            if framed.close {
                session.set_keepalive(None);
            }
            if plugins::any_sees(run) {
                self.unsent = Unsent::told_by(&head.headers);
            }
            framed.bodiless
        };
        if let Some(wait) = &mut self.wait {
            wait.set(self.until);
        }
        run.goes_out(&head);
        self.head_at = Some(Instant::now());
        self.stage = Stage::Open { bodiless };
        let is_last = whole && trailers.is_none();
        if bytes.is_empty() && is_last {
            out.push(HttpTask::Header(head, true));
            return Ok(());
        }
        out.push(HttpTask::Header(head, false));
        if !self.unsent.takes(bytes.len(), is_last) {
            return Err(Reply::from(Reason::PluginFailed).into());
        }
        if !bytes.is_empty() || is_last {
            out.push(HttpTask::Body(Some(bytes), is_last));
        }
        Ok(())
    }
}
