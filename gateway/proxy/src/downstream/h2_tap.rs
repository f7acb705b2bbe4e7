//! The tap on an HTTP/2 connection: counts and times what the protocol's library takes without a word, by the headers
//! of the frames that pass.
//!
//! Counted, as rates that refill: resets, control frames (PING, SETTINGS, PRIORITY, unknown types, empty DATA, windows
//! opened by trifles), CONTINUATION. Timed: header blocks, and responses that wait behind shut windows. A breach is told
//! to the connection's task, which says GOAWAY with ENHANCE_YOUR_CALM and closes; from that moment nothing more is read.
//! What one request alone does wrong is not judged here: a body that drips ([`super::http2_body`]), a response that is not read
//! (the engine's write timeout).
//!
//! Windows are followed from both sides' frames. What h2 holds back is not visible here; a stream whose window is shut is
//! taken to hold as much as it is allowed to ([`STREAM_SEND_BUFFER`]).

use super::h2_frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Event, FrameHeader, FrameReader, GOAWAY, HEADERS, PREFACE,
    RST_STREAM, SETTINGS, WARNING, WINDOW_UPDATE,
};
use super::held::Holder;
use super::metrics::DownstreamMetrics;
use sluice_model::config::Edge;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
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
/// How often it is looked at what waits behind shut windows.
const ROUND: Duration = Duration::from_secs(1);
/// For how long too much may wait there while the client takes next to nothing.
const OVERFULL: Duration = Duration::from_secs(5);
/// WINDOW_UPDATE frames that each DATA frame of ours is a reason for: one for its stream, one for the connection.
const UPDATES_FOR_DATA: u32 = 2;

/// `:status: 431` as h2's encoder writes it at first (RFC 7541, section 6.2.1), and where indices into the dynamic table
/// begin, by which it does so afterwards.
const STATUS_431: [u8; 5] = [0x48, 0x83, 0x69, 0x90, 0xff];
const DYNAMIC_INDEX: u8 = 0x80 | 62;

/// Whether a response's header block is that one field, and so not the engine's, which always has a date: h2 itself has
/// refused a header list that is too large.
fn is_431(length: u32, block: [u8; 6]) -> bool {
    match length {
        1 => block.first().is_some_and(|index| *index >= DYNAMIC_INDEX),
        5 => block.starts_with(&STATUS_431),
        _ => false,
    }
}

/// RFC 9113, section 7: there were too many streams at a time.
const REFUSED_STREAM: u32 = 0x7;

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
    /// The request's body is not at its end.
    receiving: bool,
    /// The response has begun, and is not at its end.
    sending: bool,
    /// The response is at its end.
    answered: bool,
}

#[derive(Debug)]
pub(super) struct Tap {
    inbound: FrameReader,
    outbound: FrameReader,
    /// Asks for [`WARNING`].
    warning: Arc<AtomicBool>,
    /// The part of it that has yet to go out.
    unsaid: &'static [u8],
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
    socket_full: bool,
    initial_window: i64,
    updates_due: u32,
    /// The HEADERS that we send is the first of its stream.
    begins_response: bool,
    send_buffer: u64,
    /// What waits, for the budget of all connections.
    waiting: Arc<Holder>,
    /// For how long more than `send_buffer` has been waiting, and what the client has taken since.
    overfull: Duration,
    taken: u64,
    request_headers: Duration,
    round: Duration,
    /// Bytes that the client is to take in a round.
    least: u64,
    breach: Option<Breach>,
    metrics: DownstreamMetrics,
    alarm: Arc<Notify>,
}

impl Tap {
    /// `alarm` is notified at a breach; `warning`, once set, is said to the client with the next flush.
    pub(super) fn new(
        edge: &Edge,
        metrics: &DownstreamMetrics,
        alarm: Arc<Notify>,
        waiting: Arc<Holder>,
        warning: Arc<AtomicBool>,
    ) -> Self {
        let now = Instant::now();
        let http2 = &edge.http2;
        let round = ROUND.min(edge.timeouts.body_idle);
        let least = u128::from(edge.timeouts.response_min_rate) * round.as_millis() / 1000;
        Tap {
            inbound: FrameReader::after(PREFACE.len()),
            outbound: FrameReader::after(0),
            warning,
            unsaid: &[],
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
                socket_full: false,
                initial_window: DEFAULT_WINDOW,
                updates_due: 0,
                begins_response: false,
                send_buffer: u64::from(http2.send_buffer),
                waiting,
                overfull: Duration::ZERO,
                taken: 0,
                request_headers: edge.timeouts.request_headers,
                round,
                least: u64::try_from(least).unwrap_or(u64::MAX),
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

    /// What is to go out before the next frame of h2: the rest of the warning, once it was asked for.
    pub(super) fn interjection(&mut self) -> &'static [u8] {
        if self.outbound.between_frames() && self.warning.swap(false, Relaxed) {
            self.unsaid = WARNING;
        }
        self.unsaid
    }

    /// So many bytes of it went out.
    pub(super) fn interjected(&mut self, bytes: usize) {
        self.unsaid = self.unsaid.get(bytes..).unwrap_or_default();
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

    /// Whether the client's socket takes nothing more: then responses wait as they do behind shut windows. h2 may not
    /// read before it can write, so that time passes here as well.
    pub(super) fn socket_full(&mut self, full: bool, cx: &mut Context<'_>) {
        self.watch.socket_full = full;
        if full {
            self.poll_deadlines(cx);
        }
    }

    /// Called when nothing can be read or written: lets time pass.
    pub(super) fn poll_deadlines(&mut self, cx: &mut Context<'_>) {
        if let Some(timer) = &mut self.header_timer
            && timer.as_mut().poll(cx).is_ready()
        {
            self.header_timer = None;
            self.watch.break_at(Breach::Timeout("request_headers"));
        }
        // Without a stream there is nothing to look at, but a last time.
        if self.watch.streams.is_empty() && self.check_timer.is_none() {
            return;
        }
        let round = self.watch.round;
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
            Event::End(_) | Event::ShortBlock { .. } => {}
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
                if ends {
                    self.received(frame.stream);
                }
            }
            HEADERS => {
                self.continuations = 0;
                self.in_header_block = true;
                if self.streams.contains_key(&frame.stream) {
                    // Trailers.
                    if ends {
                        self.received(frame.stream);
                    }
                    return;
                }
                if self.streams.len() >= self.max_streams {
                    self.break_at(Breach::Limit("max_concurrent_streams"));
                    return;
                }
                let watched =
                    StreamWatch { send_window: self.initial_window, receiving: !ends, sending: false, answered: false };
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

    /// A request is at its end.
    fn received(&mut self, stream: u32) {
        if let Some(watched) = self.streams.get_mut(&stream) {
            watched.receiving = false;
            if watched.answered {
                self.streams.remove(&stream);
            }
        }
    }

    fn we_sent(&mut self, event: Event) {
        match event {
            Event::Frame(frame) => self.our_frame(frame),
            Event::Reset { stream, code } => {
                self.streams.remove(&stream);
                if code == REFUSED_STREAM {
                    self.metrics.limit("max_concurrent_streams");
                }
                // Resets that the client provokes cost as much as those that it sends: PROTOCOL_ERROR,
                // FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM (RFC 9113, section 7).
                if matches!(code, 0x1 | 0x3 | 0x5 | 0x6 | 0x7) {
                    self.count_reset();
                }
            }
            Event::ShortBlock { frame, block } => {
                if self.begins_response && frame.flags & END_STREAM != 0 && is_431(frame.length, block) {
                    self.metrics.limit("header_bytes");
                }
            }
            Event::Window { .. } | Event::InitialWindow(_) | Event::End(_) => {}
        }
    }

    fn our_frame(&mut self, frame: FrameHeader) {
        let ends = frame.flags & END_STREAM != 0;
        match frame.kind {
            DATA => {
                self.connection_window -= i64::from(frame.length);
                self.taken += u64::from(frame.length);
                self.updates_due = self.updates_due.saturating_add(UPDATES_FOR_DATA);
                if let Some(watched) = self.streams.get_mut(&frame.stream) {
                    watched.send_window -= i64::from(frame.length);
                }
            }
            HEADERS => {
                if let Some(watched) = self.streams.get_mut(&frame.stream) {
                    self.begins_response = !watched.sending;
                    watched.sending = true;
                }
            }
            _ => return,
        }
        if !ends {
            return;
        }
        if let Some(watched) = self.streams.get_mut(&frame.stream) {
            watched.sending = false;
            watched.answered = true;
            if !watched.receiving {
                self.streams.remove(&frame.stream);
            }
        }
    }

    /// One round of checks, `round` after the last.
    fn check(&mut self, round: Duration) {
        let connection_shut = self.socket_full || self.connection_window <= 0;
        let shut = |watched: &&StreamWatch| watched.sending && (connection_shut || watched.send_window <= 0);
        let shut = self.streams.values().filter(shut).count() as u64;
        let waiting = shut * u64::from(STREAM_SEND_BUFFER);
        if !self.waiting.set(waiting) {
            // Its task has been told already.
            return;
        }
        if waiting <= self.send_buffer {
            self.overfull = Duration::ZERO;
            self.taken = 0;
            return;
        }
        self.overfull += round;
        let rounds = self.overfull.as_millis() / round.as_millis().max(1);
        // A client with small windows on a slow network has many streams waiting, and takes from them what it can.
        if self.overfull >= OVERFULL.min(round * 5) && u128::from(self.taken) <= u128::from(self.least) * rounds {
            self.break_at(Breach::Limit("send_buffer"));
        }
    }
}
