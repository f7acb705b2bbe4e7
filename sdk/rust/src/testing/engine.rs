//! The other end of `sluice plugin host`: plugins as the gateway's engine runs them, in a process of its own.
//!
//! A test has a host for itself while it runs, as it has its thread; the next one takes it over, with what it has compiled.

use super::protocol::{
    Answer, Asked, Bytes, Call, Called, Fields, FromHost, Hello, StoreCall, Stored, ToHost, VERSION,
};
use crate::backend::{outgoing, services};
use crate::testing;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// The module to test, or a folder of modules, of which one has the crate's name. Not set, or empty: tests run natively.
const MODULE: &str = "SLUICE_PLUGIN_WASM";

/// The program; by default the `sluice` of the search path.
const PROGRAM: &str = "SLUICE";

/// Configurations that a host keeps for later tests: each is compiled code, some megabytes.
const MAX_KEPT: usize = 32;

/// What the gateway calls failures of calls to backends ([`FetchError`](crate::fetch::FetchError)).
const FAILURES: [&str; 8] =
    ["not-allowed", "invalid", "no-endpoint", "connect", "timeout", "protocol", "too-large", "overloaded"];

/// Nobody's at the moment.
static IDLE: Mutex<Vec<Host>> = Mutex::new(Vec::new());

thread_local! {
    static HELD: RefCell<Held> = const { RefCell::new(Held(None)) };
}

/// A thread's, which goes back when the thread ends.
struct Held(Option<Host>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(mut host) = self.0.take().filter(|host| !host.busy && host.plugins.len() <= MAX_KEPT) {
            host.fresh = true;
            IDLE.lock().unwrap_or_else(PoisonError::into_inner).push(host);
        }
    }
}

/// Ends the test: what it is to show can't be shown.
#[track_caller]
fn trouble(message: impl std::fmt::Display) -> ! {
    panic!("{message}")
}

/// Whether tests run against a module.
pub(crate) fn is_on() -> bool {
    std::env::var_os(MODULE).is_some_and(|module| !module.is_empty())
}

/// The module that a plugin's tests run against; none: they run natively.
#[track_caller]
pub(super) fn module<P>() -> Option<String> {
    let module = std::env::var_os(MODULE).filter(|module| !module.is_empty())?;
    let Some(module) = module.to_str() else { trouble(format!("{MODULE}: {} is no UTF-8", module.display())) };
    if !Path::new(module).is_dir() {
        return Some(module.to_owned());
    }
    // `key_auth::KeyAuth`
    let name = std::any::type_name::<P>();
    let of_crate = name.split("::").next().unwrap_or(name);
    Some(format!("{}/{of_crate}.wasm", module.trim_end_matches('/')))
}

struct Host {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    program: String,
    /// By module and configuration.
    plugins: BTreeMap<(String, String), u64>,
    /// What plugins may reach has not been told in this test.
    fresh: bool,
    /// A call is under way, or the host is gone: it can't be used for another.
    busy: bool,
}

impl Host {
    #[track_caller]
    fn take() -> Host {
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.unwrap_or_else(Host::start)
    }

    #[track_caller]
    fn start() -> Host {
        let named = std::env::var(PROGRAM).ok().filter(|program| !program.is_empty());
        let program = named.clone().unwrap_or_else(|| "sluice".to_owned());
        let mut command = Command::new(&program);
        let started = command.args(["plugin", "host"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => trouble(format!(
                "{MODULE} has these tests run in the gateway's engine, and there is no `sluice` on the PATH: install it, or \
                 name the program in {PROGRAM}"
            )),
            Err(error) => trouble(format!("{PROGRAM}: `{program}` can't be started: {error}")),
        };
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            trouble(format!("`{program}` has no standard input or output"))
        };
        let (from, plugins) = (BufReader::new(from), BTreeMap::new());
        let mut host = Host { child, to, from, program, plugins, fresh: true, busy: false };
        let line = host.line();
        let program = &host.program;
        match serde_json::from_str::<Hello>(&line) {
            Ok(hello) if hello.sluice_plugin_host == VERSION => host,
            Ok(hello) => trouble(format!(
                "`{program}` is Sluice {}, and speaks version {} of the protocol of tests, where this SDK speaks version \
                 {VERSION}: use the `sluice` that has written the SDK, or have this one write it anew by `sluice plugin sdk`",
                hello.sluice, hello.sluice_plugin_host
            )),
            Err(_) => trouble(format!("`{program} plugin host` is no `sluice`: it said `{}`", line.trim_end())),
        }
    }

    #[track_caller]
    fn say(&mut self, message: &impl Serialize) {
        let mut line = match serde_json::to_vec(message) {
            Ok(line) => line,
            Err(error) => trouble(format!("a message to `{}`: {error}", self.program)),
        };
        line.push(b'\n');
        // Why it could not be written, if it has ended, is told by what it does not answer.
        let written = self.to.write_all(&line).and_then(|()| self.to.flush());
        if let Err(error) = written.or_else(|error| (error.kind() == ErrorKind::BrokenPipe).then_some(()).ok_or(error))
        {
            trouble(format!("a message to `{}`: {error}", self.program))
        }
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        match self.from.read_line(&mut line) {
            Ok(0) => {
                self.busy = true;
                let status = self.child.wait().map(|status| status.to_string()).unwrap_or_default();
                trouble(format!(
                    "`{} plugin host` has ended ({status}), see what it printed; one that does not know `plugin host` is older \
                     than this SDK",
                    self.program
                ))
            }
            Ok(_) => line,
            Err(error) => trouble(format!("what `{}` says: {error}", self.program)),
        }
    }

    #[track_caller]
    fn hear<T: DeserializeOwned>(&mut self) -> T {
        let line = self.line();
        match serde_json::from_str(&line) {
            Ok(message) => message,
            Err(error) => trouble(format!("what `{}` says is no message: {error}", self.program)),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It would end by itself, as nobody speaks to it any more; but who waits for it must not wait long.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[track_caller]
fn with<T>(work: impl FnOnce(&mut Host) -> T) -> T {
    HELD.with_borrow_mut(|held| match &mut held.0 {
        Some(host) => work(host),
        none => work(none.insert(Host::take())),
    })
}

#[track_caller]
fn ask(message: &ToHost) -> FromHost {
    let answer = with(|host| {
        host.say(message);
        host.hear()
    });
    match answer {
        FromHost::Error(message) => trouble(message),
        answer => answer,
    }
}

/// Tells what has changed of what plugins may reach.
#[track_caller]
fn tell_services() {
    let fresh = with(|host| std::mem::take(&mut host.fresh));
    let Some(told) = services::told(fresh) else { return };
    match ask(&ToHost::Services(told)) {
        FromHost::Done => {}
        other => unexpected(&other),
    }
}

#[track_caller]
fn unexpected(answer: &FromHost) -> ! {
    trouble(format!("an answer to nothing that was asked: {answer:?}"))
}

/// No call of this test's is under way, and none was left in its middle.
#[track_caller]
fn begin() {
    if with(|host| host.busy) {
        trouble(
            "a plugin's call is under way, or was left in its middle by a panic: a backend of a test can't run plugins itself, \
             and after its panic nothing more of the test can run",
        )
    }
    tell_services();
}

/// The number of a plugin, or why its configuration is refused.
#[track_caller]
pub(super) fn configure(module: &str, config: &str) -> Result<u64, String> {
    begin();
    let key = (module.to_owned(), config.to_owned());
    if let Some(number) = with(|host| host.plugins.get(&key).copied()) {
        return Ok(number);
    }
    match ask(&ToHost::Configure { module: module.to_owned(), config: config.to_owned() }) {
        FromHost::Configured(number) => {
            with(|host| host.plugins.insert(key, number));
            Ok(number)
        }
        FromHost::Refused(reason) => Err(reason),
        other => unexpected(&other),
    }
}

/// Runs a phase; backends of the test are asked meanwhile.
#[track_caller]
pub(super) fn call(call: Call) -> Called {
    begin();
    with(|host| {
        host.busy = true;
        host.say(&ToHost::Call(Box::new(call)));
    });
    loop {
        match with(Host::hear::<FromHost>) {
            FromHost::Asked { backend, request } => {
                let answer = answer(&backend, request);
                with(|host| host.say(&ToHost::Answer(answer)));
            }
            over => {
                with(|host| host.busy = false);
                return match over {
                    FromHost::Called(called) => *called,
                    FromHost::Failed { reason, log } => {
                        log.iter().for_each(|line| eprintln!("{line}"));
                        trouble(reason)
                    }
                    FromHost::Error(message) => trouble(message),
                    other => unexpected(&other),
                };
            }
        }
    }
}

#[track_caller]
fn answer(backend: &str, request: Asked) -> Answer {
    let asked = testing::Asked {
        method: request.method,
        target: request.target,
        authority: request.authority,
        headers: plain(request.headers),
        body: request.body.0,
        timeout_ms: request.timeout_ms,
        body_limit: request.body_limit,
    };
    match outgoing::answer(backend, &asked) {
        Some(testing::StubAnswer { failure: Some((kind, message)), .. }) => {
            if !FAILURES.contains(&kind) {
                let known = FAILURES.join("`, `");
                trouble(format!("a backend of a test fails by `{kind}`; the gateway knows `{known}`"))
            }
            Answer::Failure { kind: kind.to_owned(), message }
        }
        Some(testing::StubAnswer { status, headers, body, failure: None }) => {
            Answer::Response { status, headers: fields(&headers), body: Bytes(body) }
        }
        None => trouble(format!("the host asks a backend `{backend}`, which it was not given")),
    }
}

/// A test's own look into a store.
#[track_caller]
pub(super) fn store(store: &str, call: StoreCall) -> Stored {
    tell_services();
    match ask(&ToHost::Store { store: store.to_owned(), call }) {
        FromHost::Stored(stored) => stored,
        other => unexpected(&other),
    }
}

pub(super) fn fields(plain: &[(String, Vec<u8>)]) -> Fields {
    plain.iter().map(|(name, value)| (name.clone(), Bytes(value.clone()))).collect()
}

pub(super) fn plain(fields: Fields) -> Vec<(String, Vec<u8>)> {
    fields.into_iter().map(|(name, value)| (name, value.0)).collect()
}
