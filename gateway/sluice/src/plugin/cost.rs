//! What a plugin costs a request: CPU time of whole exchanges in the gateway's engine.

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use sluice_wasm::{Configured, Decision, Exchange, PlainRequest, PlainResponse, PluginError, Summary};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Rounds, of which the median counts.
const ROUNDS: u32 = 5;

/// Exchanges before it is measured.
const WARM_UP: u32 = 50;

/// Longest time for one measurement: a plugin that takes milliseconds is called less often.
const LONGEST: Duration = Duration::from_secs(3);

/// CPU time of one exchange, all its phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Cost {
    /// Nanoseconds: the median of the rounds.
    pub(crate) ns: u64,
    pub(crate) lowest_ns: u64,
    pub(crate) highest_ns: u64,
    /// Exchanges that were measured.
    pub(crate) calls: u32,
}

/// Runs `calls` exchanges of `request`. What putting the exchanges together costs is measured too, and left out.
pub(crate) async fn measure(
    configured: &Arc<Configured>,
    request: &PlainRequest,
    calls: u32,
) -> Result<Cost, PluginError> {
    for _ in 0..WARM_UP {
        exchange(configured, request).await?;
    }
    let a_round = (calls / ROUNDS).max(1);
    let began = Instant::now();
    let (mut rounds, mut measured) = (Vec::new(), 0);
    for _ in 0..ROUNDS {
        let (before, mut made) = (cpu_time(), 0);
        while made < a_round && (made == 0 || began.elapsed() < LONGEST) {
            exchange(configured, request).await?;
            made += 1;
        }
        let plugin = cpu_time() - before;
        let before = cpu_time();
        for _ in 0..made {
            std::hint::black_box(lent(request));
        }
        let own = cpu_time() - before;
        rounds.push(plugin.saturating_sub(own) / u64::from(made));
        measured += made;
    }
    rounds.sort_unstable();
    let at = |n: usize| rounds.get(n).copied().unwrap_or_default();
    Ok(Cost { ns: at(rounds.len() / 2), lowest_ns: at(0), highest_ns: at(rounds.len() - 1), calls: measured })
}

/// What the request phase decides, in a word or two.
pub(crate) async fn decision(configured: &Arc<Configured>, request: &PlainRequest) -> Result<String, PluginError> {
    if !configured.phases().request_headers() {
        return Ok("continue".to_owned());
    }
    let decision = configured.begin().on_request(&mut lent(request)).await?;
    Ok(match decision {
        Decision::Continue | Decision::Abort => "continue".to_owned(),
        Decision::ReadBody(_) => "read the body".to_owned(),
        Decision::Respond(reply) => format!("respond {}", reply.status.as_u16()),
    })
}

fn lent(request: &PlainRequest) -> Exchange {
    let mut exchange = Exchange::new(request.clone());
    exchange.put_response(Box::new(PlainResponse::default()));
    exchange
}

async fn exchange(configured: &Arc<Configured>, request: &PlainRequest) -> Result<(), PluginError> {
    let mut exchange = lent(request);
    let mut invocation = configured.begin();
    if let Decision::ReadBody(_) = invocation.on_request(&mut exchange).await? {
        invocation.on_request_body(&mut exchange, Bytes::new()).await?;
    }
    if let Decision::ReadBody(_) = invocation.on_response(&mut exchange).await? {
        invocation.on_response_body(&mut exchange, Bytes::new()).await?;
    }
    invocation.on_log(&mut exchange, Summary::default()).await
}

/// Of the whole process: nothing else runs in it now, and a plugin that is slow runs on threads of the host's.
fn cpu_time() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    u64::try_from(time.tv_sec).unwrap_or_default() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default()
}
