//! The tap on an HTTP/2 connection: counts and times what the protocol's library takes without a word, by the headers
//! of the frames that pass.
//!
//! Counted, as rates that refill: resets, control frames (PING, SETTINGS, PRIORITY, unknown types, empty DATA, windows
//! opened by trifles), CONTINUATION. Timed: header blocks, bodies that drip, responses that wait behind shut windows. A
//! breach is told to the connection's task, which says GOAWAY with ENHANCE_YOUR_CALM and closes; from that moment nothing
//! more is read. Single streams are not reset: whoever breaks one of these bounds is not served on the connection.
//!
//! Windows are followed from both sides' frames. What h2 holds back is not visible here; a stream whose window is shut is
//! taken to hold as much as it is allowed to ([`STREAM_SEND_BUFFER`]).

use super::h2_frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Event, FrameHeader, FrameReader, GOAWAY, HEADERS, PREFACE,
    RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use super::metrics::DownstreamMetrics;
use sluice_model::config::Edge;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::Sleep;

/// Bytes of a response that one stream may hold while the client does not read it.
pub(super) const STREAM_SEND_BUFFER: u32 = 64 * 1024;

/// The time in which the configured number of frames may come.
const RATE_WINDOW: Duration = Duration::from_secs(10);
/// SETTINGS_MAX_FRAME_SIZE, which is left at its default (RFC 9113, section 6.5.2).
const FRAME_SIZE: u32 = 16 * 1024;
/// Windows before any SETTINGS (RFC 9113, section 6.9.2).
const DEFAULT_WINDOW: i64 = 65_535;
/// An increment of a window that is worth its frame.
const WORTHY_INCREMENT: u32 = 1024;
/// WINDOW_UPDATE frames that each DATA frame of ours is a reason for: one for its stream, one for the connection.
const UPDATES_FOR_DATA: u32 = 2;

/// Which bound was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Breach {
    /// A limit, by its name in [`sluice_model::config::Http2`].
    Limit(&'static str),
    /// A timeout, by its name in [`sluice_model::config::Timeouts`].
    Timeout(&'static str),
}

/// CONTINUATION frames that h2 takes, which knows no more than the longest list of fields: a quarter more than it would
/// fill. Counted here, a breach has a name.
fn continuations_of_h2(header_bytes: u64) -> u32 {
    let frames = (header_bytes / u64::from(FRAME_SIZE)).max(1);
    u32::try_from((frames + frames / 4).max(5)).unwrap_or(u32::MAX)
}

/// So many in [`RATE_WINDOW`], refilled as time goes by.
#[derive(Debug)]
struct Bucket {
    limit: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn new(limit: u32, now: Instant) -> Self {
        Bucket { limit: f64::from(limit), tokens: f64::from(limit), filled: now }
    }

    fn take(&mut self) -> bool {
        let now = Instant::now();
        let passed = now.duration_since(self.filled).as_secs_f64() / RATE_WINDOW.as_secs_f64();
        self.tokens = (self.tokens + passed * self.limit).min(self.limit) - 1.0;
        self.filled = now;
        self.tokens >= 0.0
    }
}

/// One request and its answer.
#[derive(Debug)]
struct StreamWatch {
    /// The client's window for our DATA.
    send_window: i64,
    /// Our window for the client's DATA.
    recv_window: i64,
    /// The request's body is not at its end.
    receiving: bool,
    /// The response has begun, and is not at its end.
    sending: bool,
    responded: bool,
    /// It was there at the last round of checks.
    checked: bool,
    received: u64,
    sent: u64,
    /// How long, in rounds, its window has been all but shut.
    stalled: Duration,
}

#[derive(Debug)]
pub(super) struct Tap {
    inbound: FrameReader,
    outbound: FrameReader,
    watch: Watch,
    header_timer: Option<Pin<Box<Sleep>>>,
    check_timer: Option<Pin<Box<Sleep>>>,
}

/// The part of the tap that frames are shown to.
#[derive(Debug)]
struct Watch {
    streams: HashMap<u32, StreamWatch, foldhash::fast::RandomState>,
    resets: Bucket,
    control: Bucket,
    continuations: u32,
    max_continuations: u32,
    max_streams: usize,
    /// Between the first byte of HEADERS and the last of the frame with END_HEADERS.
    in_header_block: bool,
    connection_window: i64,
    initial_window: i64,
    our_window: i64,
    updates_due: u32,
    send_buffer: u64,
    /// More than `send_buffer` was waiting at the last round of checks.
    overfull: bool,
    request_headers: Duration,
    body_idle: Duration,
    body_min_rate: u64,
    stream_idle: Duration,
    breach: Option<Breach>,
    metrics: DownstreamMetrics,
    alarm: Arc<Notify>,
}

impl Tap {
    /// `alarm` is notified at a breach.
    pub(super) fn new(edge: &Edge, metrics: &DownstreamMetrics, alarm: Arc<Notify>) -> Self {
        let now = Instant::now();
        let http2 = &edge.http2;
        Tap {
            inbound: FrameReader::after(PREFACE.len()),
            outbound: FrameReader::after(0),
            watch: Watch {
                streams: HashMap::default(),
                resets: Bucket::new(http2.resets, now),
                control: Bucket::new(http2.control_frames, now),
                continuations: 0,
                max_continuations: http2.continuations.min(continuations_of_h2(edge.limits.header_bytes)),
                // Those that h2 refuses pass here before it does.
                max_streams: http2.max_concurrent_streams as usize * 2 + 128,
                in_header_block: false,
                connection_window: DEFAULT_WINDOW,
                initial_window: DEFAULT_WINDOW,
                our_window: i64::from(http2.stream_window),
                updates_due: 0,
                send_buffer: u64::from(http2.send_buffer),
                overfull: false,
                request_headers: edge.timeouts.request_headers,
                body_idle: edge.timeouts.body_idle,
                body_min_rate: edge.timeouts.body_min_rate,
                stream_idle: edge.timeouts.stream_idle,
                breach: None,
                metrics: metrics.clone(),
                alarm,
            },
            header_timer: None,
            check_timer: None,
        }
    }

    pub(super) fn breach(&self) -> Option<Breach> {
        self.watch.breach
    }

    /// Bytes from the client.
    pub(super) fn inbound(&mut self, bytes: &[u8]) {
        let watch = &mut self.watch;
        self.inbound.pass(bytes, |event| watch.client_sent(event));
        if !watch.in_header_block {
            self.header_timer = None;
        } else if self.header_timer.is_none() {
            self.header_timer = Some(Box::pin(tokio::time::sleep(watch.request_headers)));
        }
    }

    /// Bytes to the client.
    pub(super) fn outbound(&mut self, bytes: &[u8]) {
        let watch = &mut self.watch;
        self.outbound.pass(bytes, |event| watch.we_sent(event));
    }

    /// Called when nothing can be read: lets time pass.
    pub(super) fn poll_deadlines(&mut self, cx: &mut Context<'_>) {
        if let Some(timer) = &mut self.header_timer
            && timer.as_mut().poll(cx).is_ready()
        {
            self.header_timer = None;
            self.watch.break_at(Breach::Timeout("request_headers"));
        }
        let round = self.watch.body_idle;
        if self.watch.streams.is_empty() {
            return;
        }
        let timer = self.check_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(round)));
        while timer.as_mut().poll(cx).is_ready() {
            self.watch.check(round);
            if self.watch.streams.is_empty() || self.watch.breach.is_some() {
                self.check_timer = None;
                return;
            }
            timer.as_mut().reset(tokio::time::Instant::now() + round);
        }
    }
}

impl Watch {
    fn break_at(&mut self, breach: Breach) {
        if self.breach.is_some() {
            return;
        }
        self.breach = Some(breach);
        match breach {
            Breach::Limit(name) => self.metrics.limit(name),
            Breach::Timeout(name) => self.metrics.timeout(name),
        }
        self.alarm.notify_one();
    }

    fn count_control(&mut self) {
        if !self.control.take() {
            self.break_at(Breach::Limit("control_frames"));
        }
    }

    fn count_reset(&mut self) {
        if !self.resets.take() {
            self.break_at(Breach::Limit("resets"));
        }
    }

    fn client_sent(&mut self, event: Event) {
        match event {
            Event::Frame(frame) => self.client_frame(frame),
            Event::End(FrameHeader { kind: HEADERS | CONTINUATION, flags, .. }) if flags & END_HEADERS != 0 => {
                self.in_header_block = false;
            }
            Event::End(_) => {}
            Event::Reset { stream, .. } => {
                self.streams.remove(&stream);
            }
            Event::Window { stream, increment } => {
                if self.updates_due > 0 {
                    self.updates_due -= 1;
                } else if increment < WORTHY_INCREMENT {
                    self.count_control();
                }
                let increment = i64::from(increment);
                if stream == 0 {
                    self.connection_window += increment;
                } else if let Some(watched) = self.streams.get_mut(&stream) {
                    watched.send_window += increment;
                }
            }
            Event::InitialWindow(size) => {
                let change = i64::from(size) - self.initial_window;
                self.initial_window = i64::from(size);
                for watched in self.streams.values_mut() {
                    watched.send_window += change;
                }
            }
        }
    }

    fn client_frame(&mut self, frame: FrameHeader) {
        let ends = frame.flags & END_STREAM != 0;
        match frame.kind {
            DATA => {
                if frame.length == 0 && !ends {
                    self.count_control();
                }
                if let Some(watched) = self.streams.get_mut(&frame.stream) {
                    watched.received += u64::from(frame.length);
                    watched.recv_window -= i64::from(frame.length);
                    if ends {
                        watched.receiving = false;
                    }
                }
            }
            HEADERS => {
                self.continuations = 0;
                self.in_header_block = true;
                if let Some(watched) = self.streams.get_mut(&frame.stream) {
                    // Trailers.
                    watched.receiving &= !ends;
                    return;
                }
                if self.streams.len() >= self.max_streams {
                    self.break_at(Breach::Limit("max_concurrent_streams"));
                    return;
                }
                let watched = StreamWatch {
                    send_window: self.initial_window,
                    recv_window: self.our_window,
                    receiving: !ends,
                    sending: false,
                    responded: false,
                    checked: false,
                    received: 0,
                    sent: 0,
                    stalled: Duration::ZERO,
                };
                self.streams.insert(frame.stream, watched);
            }
            CONTINUATION => {
                self.continuations += 1;
                if self.continuations > self.max_continuations {
                    self.break_at(Breach::Limit("continuations"));
                }
            }
            RST_STREAM => self.count_reset(),
            WINDOW_UPDATE | GOAWAY => {}
            // The answer to our own.
            SETTINGS if frame.flags & ACK != 0 => {}
            // PRIORITY, SETTINGS, PING, and what nobody knows.
            _ => self.count_control(),
        }
    }

    fn we_sent(&mut self, event: Event) {
        match event {
            Event::Frame(frame) => self.our_frame(frame),
            Event::Reset { stream, code } => {
                self.streams.remove(&stream);
                // Resets that the client provokes cost as much as those that it sends: PROTOCOL_ERROR,
                // FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM (RFC 9113, section 7).
                if matches!(code, 0x1 | 0x3 | 0x5 | 0x6 | 0x7) {
                    self.count_reset();
                }
            }
            Event::Window { stream, increment } => {
                if let Some(watched) = self.streams.get_mut(&stream) {
                    watched.recv_window += i64::from(increment);
                }
            }
            Event::InitialWindow(_) | Event::End(_) => {}
        }
    }

    fn our_frame(&mut self, frame: FrameHeader) {
        let ends = frame.flags & END_STREAM != 0;
        match frame.kind {
            DATA => {
                self.connection_window -= i64::from(frame.length);
                self.updates_due = self.updates_due.saturating_add(UPDATES_FOR_DATA);
                if let Some(watched) = self.streams.get_mut(&frame.stream) {
                    watched.send_window -= i64::from(frame.length);
                    watched.sent += u64::from(frame.length);
                }
            }
            HEADERS => {
                if let Some(watched) = self.streams.get_mut(&frame.stream) {
                    watched.sending = true;
                    watched.responded = true;
                }
            }
            _ => return,
        }
        if !ends {
            return;
        }
        if let Some(watched) = self.streams.get_mut(&frame.stream) {
            watched.sending = false;
            if !watched.receiving {
                self.streams.remove(&frame.stream);
            }
        }
    }

    /// One round of checks, `round` after the last.
    fn check(&mut self, round: Duration) {
        let least = u128::from(self.body_min_rate) * round.as_millis() / 1000;
        let connection_shut = self.connection_window <= 0;
        let mut waiting = 0_u64;
        let mut breach = None;
        self.streams.retain(|_, watched| {
            // A response that has begun makes a conversation of it, which lives by the idle timeouts only; and a window
            // that we keep shut is not the client's fault.
            let waited_for = watched.receiving && !watched.responded && watched.recv_window > 0;
            if watched.checked && waited_for {
                if watched.received == 0 {
                    breach = Some(Breach::Timeout("body_idle"));
                } else if u128::from(watched.received) < least {
                    breach = Some(Breach::Timeout("body_min_rate"));
                }
            }
            let shut = watched.sending && (connection_shut || watched.send_window <= 0);
            if shut {
                waiting += u64::from(STREAM_SEND_BUFFER);
            }
            if shut && watched.checked && u128::from(watched.sent) <= least {
                watched.stalled += round;
                if watched.stalled >= self.stream_idle {
                    breach = Some(Breach::Timeout("stream_idle"));
                }
            } else {
                watched.stalled = Duration::ZERO;
            }
            watched.received = 0;
            watched.sent = 0;
            watched.checked = true;
            watched.receiving || watched.sending || !watched.responded
        });
        let overfull = waiting > self.send_buffer;
        if overfull && self.overfull {
            breach = breach.or(Some(Breach::Limit("send_buffer")));
        }
        self.overfull = overfull;
        if let Some(breach) = breach {
            self.break_at(breach);
        }
    }
}
