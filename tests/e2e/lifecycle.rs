//! Start, drain, stop, and the hand-over to the next process.

use crate::shop::{HOST, Shop, backend_of};
use futures::{SinkExt, StreamExt};
use rustix::process::Signal;
use sluice_tests::certificate::Authority;
use sluice_tests::gateway::Options;
use sluice_tests::objects::route_to;
use sluice_tests::{Backend, Folder, Gateway, http2, objects, ports, raw, wait};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

async fn shop() -> Shop {
    Shop::start(&["one"], &route_to("all", &[HOST], "one")).await
}

/// A port with one backend behind it.
fn one(port: u16, backend: &Backend) -> String {
    objects::join([
        objects::class(),
        objects::gateway(port, None),
        route_to("all", &[HOST], "one"),
        objects::service("one", &[backend.address]),
    ])
}

#[tokio::test]
async fn sigterm_closes_http1_after_its_answer_and_tells_http2_and_web_sockets() {
    let mut shop = shop().await;
    let mut http1 = raw::Client::connect(shop.http).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    http1.send(&request).await.unwrap();
    assert!(!http1.response().await.unwrap().closes());
    let http2 = http2::Connection::tls(shop.https, HOST, shop.authority.client(&["h2"])).await.unwrap();
    assert_eq!(http2.get(HOST, "/").await.unwrap().status, 200);
    let stream = TcpStream::connect(("127.0.0.1", shop.http)).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(format!("ws://{HOST}/"), stream).await.unwrap();
    socket.send(Message::text("before")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("one: before"));

    shop.gateway.signal(Signal::TERM);
    // The idle connection is closed, or answers once more and then closes; it is never reset.
    wait::until("GOAWAY", || async { http2.going_away().await.then_some(()) }).await;
    if http1.send(&request).await.is_ok()
        && let Ok(answer) = http1.response().await
    {
        assert!(answer.closes(), "a draining gateway keeps the connection open");
    }
    let told = socket.next().await;
    assert!(matches!(&told, Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == 1001), "{told:?}");
    socket.close(None).await.ok();
    drop((http1, http2, socket));
    assert!(shop.gateway.exited().await.success());
}

/// A backend that answers when it is told to.
async fn patient() -> (Backend, tokio::sync::watch::Sender<bool>) {
    let (release, released) = tokio::sync::watch::channel(false);
    let handler: sluice_tests::backend::Handler = Arc::new(move |_| {
        let mut released = released.clone();
        Box::pin(async move {
            let _ = released.wait_for(|go| *go).await;
            sluice_tests::backend::text(http::StatusCode::OK, "done")
        })
    });
    (Backend::with(handler).await, release)
}

#[tokio::test]
async fn running_requests_finish_while_new_connections_are_refused_and_readiness_is_gone() {
    let (backend, release) = patient().await;
    let more = sluice_tests::objects::join([
        route_to("all", &[HOST], "slow"),
        sluice_tests::objects::service("slow", &[backend.address]),
    ]);
    let mut shop = Shop::start(&[], &more).await;
    let mut client = raw::Client::connect(shop.http).await.unwrap();
    client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await.unwrap();
    wait::until("the request at the backend", || async { (backend.count() == 1).then_some(()) }).await;
    shop.gateway.signal(Signal::TERM);
    wait::until("readiness to go", || async {
        match shop.gateway.public_get("/readyz").await {
            Ok((200, _)) => None,
            _ => Some(()),
        }
    })
    .await;
    release.send_replace(true);
    let answer = client.response().await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "done"));
    assert!(shop.gateway.exited().await.success());
    assert!(TcpStream::connect(("127.0.0.1", shop.http)).await.is_err());
}

/// A gateway before a backend that answers when it is told to, with further arguments.
async fn before(backend: &Backend, folder: &Folder, authority: &Authority, arguments: &[&str]) -> (Gateway, u16) {
    let (http, https) = (ports::free(), ports::free());
    folder.write(
        "slow.yaml",
        objects::join([
            objects::class(),
            objects::configured_gateway(http, Some((https, "leaf")), "timeouts: {drain: 1ms}"),
            objects::secret("leaf", &authority.leaf(&[HOST])),
            route_to("all", &[HOST], "slow"),
            objects::service("slow", &[backend.address]),
        ]),
    );
    let options = arguments.iter().fold(Options::new(folder), |options, argument| options.argument(*argument));
    (options.start().await, https)
}

#[tokio::test]
async fn the_drain_has_the_time_of_its_option_over_http2_as_well_and_says_what_it_cut() {
    let (folder, authority) = (Folder::new(), Authority::default());
    let (backend, _never) = patient().await;
    let (mut gateway, https) = before(&backend, &folder, &authority, &["--drain-timeout", "1"]).await;
    let client = http2::Connection::tls(https, HOST, authority.client(&["h2"])).await.unwrap();
    let request = client.request("GET", HOST, "/").body(()).unwrap();
    let asked = tokio::spawn(async move { client.exchange_unless_closing(request).await });
    wait::until("the request at the backend", || async { (backend.count() == 1).then_some(()) }).await;
    gateway.signal(Signal::TERM);
    let told = Instant::now();
    gateway.exited().await;
    let took = told.elapsed();
    // Far below the default of 30 s.
    assert!((Duration::from_secs(1)..Duration::from_secs(15)).contains(&took), "the drain of 1 s took {took:?}");
    assert!(gateway.log().iter().any(|line| line.contains("\"cut\":1")), "{:?}", gateway.log());
    assert!(asked.await.unwrap().is_err());

    let (folder, authority) = (Folder::new(), Authority::default());
    let (backend, release) = patient().await;
    let (mut gateway, https) = before(&backend, &folder, &authority, &[]).await;
    let client = http2::Connection::tls(https, HOST, authority.client(&["h2"])).await.unwrap();
    let request = client.request("GET", HOST, "/").body(()).unwrap();
    let asked = tokio::spawn(async move { client.exchange_unless_closing(request).await });
    wait::until("the request at the backend", || async { (backend.count() == 1).then_some(()) }).await;
    gateway.signal(Signal::TERM);
    wait::until("draining", || async { (!matches!(gateway.public_get("/readyz").await, Ok((200, _)))).then_some(()) })
        .await;
    // Far above the listener's own, far below that of the process.
    tokio::time::sleep(Duration::from_millis(300)).await;
    release.send_replace(true);
    assert_eq!(asked.await.unwrap().unwrap().expect("an answer").status, 200);
    assert!(gateway.exited().await.success());
}

#[tokio::test]
async fn a_socket_that_systemd_passes_is_served_with_what_waits_in_its_queue() {
    let (folder, backend) = (Folder::new(), Backend::echo("one").await);
    let socket = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    folder.write("one.yaml", one(port, &backend));
    let mut early = raw::Client::connect(port).await.unwrap();
    early.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await.unwrap();
    let gateway = Options::new(&folder).socket(socket).start().await;
    assert_eq!(early.response().await.unwrap().status, 200);
    assert!(gateway.stop().await.success());
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let (backend, _never) = patient().await;
    let more = sluice_tests::objects::join([
        route_to("all", &[HOST], "slow"),
        sluice_tests::objects::service("slow", &[backend.address]),
    ]);
    let mut shop = Shop::start(&[], &more).await;
    let mut client = raw::Client::connect(shop.http).await.unwrap();
    client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await.unwrap();
    wait::until("the request at the backend", || async { (backend.count() == 1).then_some(()) }).await;
    shop.gateway.signal(Signal::TERM);
    wait::until("draining", || async {
        (!matches!(shop.gateway.public_get("/readyz").await, Ok((200, _)))).then_some(())
    })
    .await;
    shop.gateway.signal(Signal::TERM);
    // Far below the drain deadline of 30 s.
    tokio::time::timeout(Duration::from_secs(10), shop.gateway.exited()).await.expect("it stops at once");
    assert!(client.response().await.is_err());
}

#[tokio::test]
async fn sighup_reads_the_folder_again_whatever_the_stamps_of_its_files_say() {
    // The name of this thread: a file whose times stand still, whatever is written over it.
    let name = Path::new("/proc").join(std::fs::read_link("/proc/thread-self").unwrap()).join("comm");
    let write =
        |text: &str| std::fs::OpenOptions::new().write(true).open(&name).unwrap().write_all(text.as_bytes()).unwrap();
    write("a: [b");
    let shop = shop().await;
    std::os::unix::fs::symlink(&name, shop.folder.path().join("name.yaml")).unwrap();
    shown(&shop.gateway, "SLUICE-P001").await;
    write("a: 1");
    shop.gateway.signal(Signal::HUP);
    shown(&shop.gateway, "SLUICE-P002").await;
    assert_eq!(backend_of(&shop.get("/").await), "one");
}

/// Waits for a problem.
async fn shown(gateway: &Gateway, code: &str) {
    wait::until(code, || async {
        let (_, problems) = gateway.admin_get("/problems").await.ok()?;
        problems.contains(code).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_gateway_is_not_ready_before_the_ports_of_its_first_configuration_are_bound() {
    let (folder, backend, port) = (Folder::new(), Backend::echo("one").await, ports::free());
    let taken = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();
    let taken6 = std::net::TcpListener::bind(("::", port));
    folder.write("one.yaml", one(port, &backend));
    let mut gateway = Options::new(&folder).without_waiting().start().await;
    shown(&gateway, "SLUICE-P308").await;
    let (status, why) = gateway.public_get("/readyz").await.unwrap();
    assert_eq!((status, why.trim()), (503, "the first configuration is not served yet"));
    drop((taken, taken6));
    gateway.ready().await;
    assert_eq!(raw::get(port, HOST, "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn sighup_opens_the_access_log_anew() {
    let shop = shop().await;
    raw::get(shop.http, HOST, "/before").await.unwrap();
    shop.gateway.logged(|line| line["path"] == "/before").await;
    let file = shop.gateway.access_log_file();
    std::fs::rename(file, file.with_extension("1")).unwrap();
    shop.gateway.signal(Signal::HUP);
    wait::until("a new file", || async {
        raw::get(shop.http, HOST, "/after").await.unwrap();
        file.exists().then_some(())
    })
    .await;
    shop.gateway.logged(|line| line["path"] == "/after").await;
    assert!(shop.gateway.access_log().iter().all(|line| line["path"] != "/before"));
}

#[tokio::test]
async fn an_upgrade_to_a_broken_configuration_is_refused_and_the_former_process_goes_on() {
    let mut shop = shop().await;
    // What the running process has read before goes on in it. A new one has never seen it.
    let whole = std::fs::read_to_string(shop.folder.path().join("more.yaml")).unwrap();
    shop.folder.write("more.yaml", format!("{whole}\n---\nkind: [\n"));
    wait::until("the running process to see it", || async {
        shop.gateway.log().iter().any(|line| line.contains("SLUICE-P001")).then_some(())
    })
    .await;
    let mut refused = Options::successor_of(&shop.folder, &shop.gateway).without_waiting().start().await;
    assert!(!refused.exited().await.success());
    let log = refused.log().join("\n");
    assert!(log.contains("more.yaml:"), "{log}");
    assert!(log.contains("without --upgrade"), "{log}");
    assert_eq!(backend_of(&shop.get("/").await), "one");
    assert_eq!(shop.gateway.public_get("/readyz").await.unwrap().0, 200);

    shop.folder.write("more.yaml", &whole);
    let new = Options::successor_of(&shop.folder, &shop.gateway).without_waiting().start().await;
    new.says_ready().await;
    assert!(shop.gateway.exited().await.success());
    assert_eq!(backend_of(&shop.get("/").await), "one");
}
