//! `sluice plugin run`: the plugin before a backend, swapped when a file is saved.

use crate::project::{Project, sluice};
use rustix::process::{Pid, Signal, kill_process};
use sluice_tests::{Address, Backend, ports, raw, wait};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Longest time for a project to be built anew and swapped in, on a busy machine.
const BUILDING: Duration = Duration::from_secs(180);

struct Trial {
    child: Child,
    /// Lines of its standard error.
    log: Arc<Mutex<Vec<String>>>,
}

impl Trial {
    fn start(project: &Project, upstream: &str, listen: SocketAddr) -> Trial {
        let mut child =
            sluice(&["plugin", "run", "--upstream", upstream, "--listen", &listen.to_string(), "--project"])
                .arg(&project.path)
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .expect("the binary starts");
        let (log, lines) = (Arc::new(Mutex::new(Vec::new())), BufReader::new(child.stderr.take().unwrap()).lines());
        let to = log.clone();
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| to.lock().unwrap().push(line)));
        Trial { child, log }
    }

    async fn logs(&self, text: &str) {
        wait::until_within(BUILDING, text, || async {
            self.log.lock().unwrap().iter().any(|line| line.contains(text)).then_some(())
        })
        .await;
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // Its state is of no interest any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The answer to a request with this header; none while nobody listens.
async fn answer(to: SocketAddr, header: &str) -> Option<raw::Response> {
    let request = format!("GET /orders HTTP/1.1\r\nHost: shop.example\r\n{header}Connection: close\r\n\r\n");
    raw::exchange(Address::from(to), request).await.ok()
}

/// Waits until a request with this header is answered so.
async fn until(to: SocketAddr, header: &str, status: u16) -> raw::Response {
    wait::until_within(BUILDING, &format!("{status} to `{}`", header.trim()), || async {
        answer(to, header).await.filter(|answer| answer.status == status)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_saved_is_built_and_swapped_in_while_requests_are_served() {
    let project = Project::new("demo", "rust");
    let backend = Backend::echo("upstream").await;
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()));
    let mut trial = Trial::start(&project, &format!("http://{}", backend.address), listen);

    let tenant = "x-tenant: acme\r\n";
    let passed = until(listen, tenant, 200).await;
    assert_eq!(passed.header("x-checked-by").as_deref(), Some("demo"));
    let seen = backend.seen();
    assert_eq!(seen.last().unwrap().headers["x-checked-by"], "demo", "the backend learns it too");
    let refused = answer(listen, "").await.unwrap();
    assert_eq!((refused.status, refused.text().as_str()), (403, "the header x-tenant is missing\n"));

    // A version that does not compile changes nothing; the next one that does is swapped in.
    project.change("src/lib.rs", "Reply::new(403)", "Reply::nwe(451)");
    trial.logs("the version before goes on").await;
    assert_eq!(answer(listen, "").await.unwrap().status, 403);
    project.change("src/lib.rs", "Reply::nwe(451)", "Reply::new(451)");
    until(listen, "", 451).await;

    // So is another configuration.
    project.change("config.yaml", "header: x-tenant", "header: x-api-version");
    until(listen, "x-api-version: 2\r\n", 200).await;
    assert_eq!(answer(listen, tenant).await.unwrap().status, 451);

    trial.signal(Signal::INT);
    let ended = wait::until_within(BUILDING, "the end", || {
        let ended = trial.child.try_wait().unwrap();
        async move { ended }
    })
    .await;
    assert!(ended.success(), "{ended}");
}
