//! One store's way to its Redis: a connection that all calls of this process share, made when it is first needed.
//!
//! ```text
//!   call ─► place among those under way ─► connection that stands ─► request, answers in order ─► answer
//!                                    └───► none: one try for all who ask, each waits for it within its own time
//!                                    └───► the last try failed: the same error at once, until the next one is due
//! ```
//!
//! While a Redis is away, calls cost no time: only the first waits for a connection, later ones are told what came of the
//! last try, and every so often one of them has it tried again.

use super::error::{StoreError, StoreErrorKind, is_of_the_server};
use super::meters::Meters;
use arc_swap::ArcSwapOption;
use futures::future::BoxFuture;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, RedisConnectionInfo};
use sluice_model::plugin::{RedisLogin, RedisServer};
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{timeout, timeout_at};

/// How long one try to connect takes, TLS and login included, whoever waits for it.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Waits before the next try after one that failed: doubled from the first to the second.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// A connection that ends sooner counts as a try that failed.
const SETTLED: Duration = Duration::from_secs(1);

/// Calls in a row without an answer after which a connection is taken for dead.
const MAX_UNANSWERED: u32 = 3;

/// How often it is looked at whether a connection leads where the configuration says.
const LOOK: Duration = Duration::from_secs(1);

/// What is connected to, whatever the transport.
pub trait StoreStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> StoreStream for S {}

/// A connection as the proxy made it.
pub struct StoreConnection {
    pub io: Box<dyn StoreStream>,
    /// For the log.
    pub address: String,
    /// Whether the configuration leads there still; asked about once a second.
    pub is_current: Box<dyn Fn() -> bool + Send>,
    /// Kept for as long as the connection stands.
    pub held: Box<dyn Send>,
}

/// Connects to where stores of plugins are. The proxy knows endpoints and TLS; the host knows none of it.
pub trait StoreServers: Send + Sync {
    /// Connects to an endpoint of the Service that the store `store` of Plugins in `namespace` is in. What takes too long
    /// is dropped.
    fn connect(
        &self,
        namespace: &Arc<str>,
        store: &Arc<str>,
        server: &RedisServer,
    ) -> BoxFuture<'static, Result<StoreConnection, StoreError>>;
}

/// Told once, after the host was made.
pub(super) type Servers = Arc<OnceLock<Box<dyn StoreServers>>>;

/// Told when there is a reason why stores can't be reached, or none any more.
pub(super) type Told = Arc<dyn Fn() + Send + Sync>;

pub(super) struct Server {
    namespace: Arc<str>,
    store: Arc<str>,
    pub(super) config: Arc<RedisServer>,
    servers: Servers,
    told: Told,
    pub(super) meters: Meters,
    /// Places of calls under way.
    places: Semaphore,
    live: ArcSwapOption<Live>,
    /// Held for a look at it, never over an await; a call that finds a connection does not come here.
    line: Mutex<Line>,
    /// Itself, for its tasks.
    own: Weak<Server>,
}

/// A connection that stands.
struct Live {
    number: u64,
    since: Instant,
    connection: MultiplexedConnection,
    unanswered: AtomicU32,
    /// Rings when it is given up.
    given_up: Arc<Notify>,
}

type Tried = Option<Result<Arc<Live>, StoreError>>;

/// How it stands with connecting.
#[derive(Default)]
struct Line {
    trying: Option<watch::Receiver<Tried>>,
    /// What came of the last try, how many have failed, and when the next one may be.
    failed: Option<(StoreError, u32, Instant)>,
    numbered: u64,
}

impl Server {
    pub(super) fn new(
        namespace: Arc<str>,
        store: Arc<str>,
        config: Arc<RedisServer>,
        servers: Servers,
        told: Told,
        meters: Meters,
    ) -> Arc<Server> {
        let places = Semaphore::new(usize::try_from(config.concurrency).unwrap_or(usize::MAX));
        Arc::new_cyclic(|own| Server {
            namespace,
            store,
            config,
            servers,
            told,
            meters,
            places,
            live: ArcSwapOption::empty(),
            line: Mutex::default(),
            own: own.clone(),
        })
    }

    /// Why it can't be reached, as far as anybody has tried.
    pub(super) fn trouble(&self) -> Option<StoreError> {
        self.line().failed.as_ref().map(|(error, ..)| error.clone())
    }

    /// Sends a command, and waits for its answer.
    pub(super) async fn call<T: FromRedisValue>(&self, command: &Cmd, until: Instant) -> Result<T, Failed> {
        let Ok(_place) = self.places.try_acquire() else {
            let message = format!("{} calls are under way, as many as may be", self.config.concurrency);
            return Err(Failed::Error(StoreError::new(StoreErrorKind::Overloaded, message)));
        };
        let live = match &*self.live.load() {
            Some(live) => live.clone(),
            None => self.connected(until).await.map_err(Failed::Error)?,
        };
        let mut connection = live.connection.clone();
        let Ok(answer) = timeout_at(until.into(), command.query_async(&mut connection)).await else {
            if live.unanswered.fetch_add(1, Relaxed) + 1 >= MAX_UNANSWERED {
                let message = format!("{MAX_UNANSWERED} calls in a row got no answer in time");
                self.give_up(&live, StoreError::new(StoreErrorKind::Timeout, message));
            }
            return Err(Failed::Error(StoreError::new(StoreErrorKind::Timeout, "no answer in time")));
        };
        live.unanswered.store(0, Relaxed);
        answer.map_err(|error: redis::RedisError| {
            if error.code() == Some("NOSCRIPT") {
                return Failed::NoScript;
            }
            let told = StoreError::of(&error);
            if is_of_the_server(&error) {
                self.give_up(&live, told.clone());
            } else if told.kind == StoreErrorKind::Closed {
                // Whatever drove it may have ended without a word, with the thread that it was on.
                self.ended(live.number);
            }
            Failed::Error(told)
        })
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // A panic while it was held left whole entries.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection: the one that stands by now, or what comes of a try. Where the last one failed nobody waits for the next.
    async fn connected(&self, until: Instant) -> Result<Arc<Live>, StoreError> {
        let mut trying = {
            let mut line = self.line();
            if let Some(live) = &*self.live.load() {
                return Ok(live.clone());
            }
            if line.trying.is_none() && line.failed.as_ref().is_none_or(|(.., again)| *again <= Instant::now()) {
                line.trying = self.begin();
            }
            match (&line.trying, &line.failed) {
                (_, Some((error, ..))) => return Err(error.clone()),
                (Some(trying), None) => trying.clone(),
                (None, None) => return Err(StoreError::new(StoreErrorKind::Connect, "the gateway is ending")),
            }
        };
        let tried = timeout_at(until.into(), trying.wait_for(Option::is_some)).await;
        match tried {
            Ok(Ok(tried)) => match &*tried {
                Some(result) => result.clone(),
                None => Err(StoreError::new(StoreErrorKind::Connect, "the try was given up")),
            },
            // The runtime that the try was on has ended.
            Ok(Err(_)) => Err(StoreError::new(StoreErrorKind::Connect, "the try was given up")),
            Err(_) => Err(StoreError::new(StoreErrorKind::Timeout, "no connection in time")),
        }
    }

    /// Begins a try that belongs to nobody's call.
    fn begin(&self) -> Option<watch::Receiver<Tried>> {
        let server = self.own.upgrade()?;
        let (tell, trying) = watch::channel(None);
        tokio::spawn(async move {
            // However it ends, a panic and the end of this runtime included, the next call may try again.
            let mut over = Over { server: &server, is_done: false };
            let tried = timeout(CONNECT_TIME, server.open()).await.unwrap_or_else(|_| {
                let message = format!("no connection within {CONNECT_TIME:?}");
                Err(StoreError::new(StoreErrorKind::Timeout, message))
            });
            server.meters.tried(tried.as_ref().err().map(|error| error.kind));
            let tried = match tried {
                Ok((live, driver, connection)) => {
                    let live = Arc::new(live);
                    server.stands(&live, connection.address());
                    tokio::spawn(keep(server.own.clone(), live.number, live.given_up.clone(), driver, connection));
                    Ok(live)
                }
                Err(error) => {
                    server.failed(error.clone());
                    Err(error)
                }
            };
            over.is_done = true;
            // Nobody may be waiting any more.
            let _ = tell.send(Some(tried));
        });
        Some(trying)
    }

    async fn open(&self) -> Result<(Live, BoxFuture<'static, ()>, Held), StoreError> {
        let database = i64::from(self.config.database);
        let mut info =
            RedisConnectionInfo::default().set_db(database).set_lib_name("sluice", env!("CARGO_PKG_VERSION"));
        if let RedisLogin::Password { username, password } = &self.config.login {
            let missing = "the Secret of its password, or the key in it, is not there";
            let password = password.as_ref().ok_or_else(|| StoreError::new(StoreErrorKind::Login, missing))?;
            let text = std::str::from_utf8(password.bytes());
            let text = text.map_err(|_| StoreError::new(StoreErrorKind::Login, "the password is no UTF-8 text"))?;
            info = info.set_password(text);
            if let Some(username) = username {
                info = info.set_username(username);
            }
        }
        let Some(servers) = self.servers.get() else {
            return Err(StoreError::new(StoreErrorKind::Connect, "nothing here connects to a Redis"));
        };
        let StoreConnection { io, address, is_current, held } =
            servers.connect(&self.namespace, &self.store, &self.config).await?;
        // Each call has its own time; what waits is bounded by the places.
        let settings = AsyncConnectionConfig::new().set_response_timeout(None);
        let greeted = MultiplexedConnection::new_with_config(&info, io, settings).await;
        let (mut connection, driver) = greeted.map_err(|error| StoreError::of_greeting(&error))?;
        let mut driver: BoxFuture<'static, ()> = Box::pin(driver);
        // It may ask for a password that it was not told, or not be ready.
        let ping = redis::cmd("PING");
        let greeted = tokio::select! {
            () = &mut driver => return Err(StoreError::new(StoreErrorKind::Closed, "it closed the connection at once")),
            greeted = ping.query_async::<redis::Value>(&mut connection) => greeted,
        };
        if let Err(error) = greeted
            && is_of_the_server(&error)
        {
            return Err(StoreError::of(&error));
        }
        let number = {
            let mut line = self.line();
            line.numbered += 1;
            line.numbered
        };
        let live = Live {
            number,
            since: Instant::now(),
            connection,
            unanswered: AtomicU32::new(0),
            given_up: Arc::new(Notify::new()),
        };
        Ok((live, driver, Held { address, is_current, _held: held }))
    }

    fn stands(&self, live: &Arc<Live>, address: &str) {
        let before = {
            let mut line = self.line();
            line.trying = None;
            self.live.store(Some(live.clone()));
            line.failed.take()
        };
        self.meters.connections.inc();
        let (store, service) = (self.label(), self.service());
        match before {
            Some((_, tries, _)) => {
                tracing::info!(%store, %service, %address, tries, "a store of plugins reaches its Redis again");
                (self.told)();
            }
            None => tracing::debug!(%store, %service, %address, "a store of plugins is connected to its Redis"),
        }
    }

    /// A try failed, or a connection at once after it.
    fn failed(&self, error: StoreError) {
        let is_new = {
            let mut line = self.line();
            line.trying = None;
            let (is_new, tries) = match &line.failed {
                Some((former, tries, _)) => (*former != error, tries.saturating_add(1)),
                None => (true, 1),
            };
            let factor = 1u32.checked_shl(tries - 1).unwrap_or(u32::MAX);
            let wait = FIRST_RETRY.saturating_mul(factor).min(LAST_RETRY);
            // Replicas that lost a Redis together do not come back together.
            let wait = wait.mul_f64(0.75 + fastrand::f64() / 2.0);
            line.failed = Some((error.clone(), tries, Instant::now() + wait));
            is_new
        };
        if is_new {
            let (store, service) = (self.label(), self.service());
            tracing::warn!(%store, %service, %error, "a store of plugins can't reach its Redis; it is tried again");
            (self.told)();
        }
    }

    /// The connection is of no use any more; the next call makes another, after a while.
    fn give_up(&self, live: &Live, error: StoreError) {
        if self.forget(live.number) {
            self.failed(error);
        }
        live.given_up.notify_one();
    }

    /// The connection ended by itself.
    fn ended(&self, number: u64) {
        let since = self.live.load().as_ref().filter(|live| live.number == number).map(|live| live.since);
        if self.forget(number) && since.is_some_and(|since| since.elapsed() < SETTLED) {
            self.failed(StoreError::new(StoreErrorKind::Closed, "it closes connections as soon as they are made"));
        }
    }

    /// Whether it was the one that new calls took.
    fn forget(&self, number: u64) -> bool {
        let _line = self.line();
        let was = self.live.load().as_ref().is_some_and(|live| live.number == number);
        if was {
            self.live.store(None);
            self.meters.connections.dec();
        }
        was
    }

    pub(super) fn label(&self) -> String {
        format!("{}/{}", self.namespace, self.store)
    }

    fn service(&self) -> String {
        format!("{}:{}", self.config.service, self.config.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.live.load().is_some() {
            self.meters.connections.dec();
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("store", &self.label()).field("config", &self.config).finish_non_exhaustive()
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis {}", self.service())
    }
}

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// The server does not know the script by its digest.
    NoScript,
    Error(StoreError),
}

/// Ends a try that did not come to its end.
struct Over<'s> {
    server: &'s Server,
    is_done: bool,
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.server.line().trying = None;
        }
    }
}

/// What the proxy said of a connection.
struct Held {
    address: String,
    is_current: Box<dyn Fn() -> bool + Send>,
    _held: Box<dyn Send>,
}

impl Held {
    fn address(&self) -> &str {
        &self.address
    }
}

/// Drives a connection to its end. When nobody has it any longer it ends by itself, with the last answer.
async fn keep(
    server: Weak<Server>,
    number: u64,
    given_up: Arc<Notify>,
    mut driver: BoxFuture<'static, ()>,
    held: Held,
) {
    let mut looks = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            () = &mut driver => {
                if let Some(server) = server.upgrade() {
                    server.ended(number);
                }
                return;
            }
            // What waits for an answer is told that there will be none.
            () = given_up.notified() => return,
            _ = looks.tick() => {
                if (held.is_current)() {
                    continue;
                }
                let Some(server) = server.upgrade() else { continue };
                if server.forget(number) {
                    let (store, address) = (server.label(), &held.address);
                    tracing::info!(%store, %address, "a store of plugins leaves an endpoint that its Service has no more");
                }
                let rest = server.config.timeout;
                drop(server);
                // Calls that are under way have their answers.
                let _ = timeout(rest, driver).await;
                return;
            }
        }
    }
}
