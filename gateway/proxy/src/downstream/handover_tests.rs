#![allow(clippy::unwrap_used)]
use super::*;

fn listening(count: usize) -> Vec<(SocketAddr, PortSocket)> {
    let each = |_| {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        (socket.local_addr().unwrap(), socket.into())
    };
    (0..count).map(each).collect()
}

fn duplicates(sockets: &[(SocketAddr, PortSocket)]) -> io::Result<Vec<(SocketAddr, PortSocket)>> {
    sockets.iter().map(|(address, socket)| Ok((*address, socket.try_clone()?))).collect()
}

#[tokio::test]
async fn a_connection_that_waited_in_the_old_process_is_accepted_by_the_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("handover.sock");
    let old = std::sync::Arc::new(listening(1));
    let address = old[0].0;
    let mut handover = Handover::listen(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let sockets = old.clone();
    let taken = tokio::spawn(async move {
        handover.taken(move || duplicates(&sockets)).await;
        drop(handover);
    });
    let mut client = std::net::TcpStream::connect(address).unwrap();
    let received = tokio::task::spawn_blocking(move || receive(&path)).await.unwrap().unwrap();
    assert_eq!(received.sockets.len(), 1);
    assert_eq!(received.sockets[0].0, address);
    let PortSocket::Listener(socket) = received.sockets[0].1.try_clone().unwrap() else { panic!("it listens") };
    received.serving().unwrap();
    taken.await.unwrap();
    drop(old);
    socket.set_nonblocking(false).unwrap();
    let (mut server, _) = socket.accept().unwrap();
    server.write_all(b"here").unwrap();
    let mut answer = [0; 4];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"here");
    assert!(directory.path().join("handover.sock").exists(), "the path is the new process's");
}

#[tokio::test]
async fn more_sockets_than_one_message_holds_arrive_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("handover.sock");
    let mut all = listening(2 * BATCH + 3);
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    // Behind all that listen, wherever it stood.
    all.push((datagrams.local_addr().unwrap(), datagrams.into()));
    let old = std::sync::Arc::new(all);
    let mut handover = Handover::listen(&path).unwrap();
    let sockets = old.clone();
    tokio::spawn(async move { handover.taken(move || duplicates(&sockets)).await });
    let received = tokio::task::spawn_blocking(move || receive(&path)).await.unwrap().unwrap();
    assert_eq!(received.sockets.len(), old.len());
    for ((address, socket), (wanted, _)) in received.sockets.iter().zip(old.iter()) {
        assert_eq!((*address, socket.local_addr().unwrap()), (*wanted, *wanted));
    }
    assert_eq!(received.sockets.last().unwrap().1.transport(), sluice_model::config::Transport::Udp);
}

#[tokio::test]
async fn a_new_process_that_fails_before_it_serves_leaves_the_old_one_serving() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("handover.sock");
    let old = std::sync::Arc::new(listening(1));
    let mut handover = Handover::listen(&path).unwrap();
    let sockets = old.clone();
    let taken = tokio::spawn(async move { handover.taken(move || duplicates(&sockets)).await });
    let again = path.clone();
    let failed = tokio::task::spawn_blocking(move || receive(&path)).await.unwrap().unwrap();
    drop(failed);
    assert!(!taken.is_finished());
    let second = tokio::task::spawn_blocking(move || receive(&again)).await.unwrap().unwrap();
    second.serving().unwrap();
    taken.await.unwrap();
}

#[test]
fn without_a_running_gateway_the_error_names_the_path() {
    let error = receive(Path::new("/nonexistent/handover.sock")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/handover.sock"), "{error}");
}

#[test]
fn sockets_of_another_process_are_not_ours() {
    assert!(passed("1", "3", "").unwrap().is_empty());
    assert!(passed("", "", "").unwrap().is_empty());
}

#[test]
fn what_systemd_passed_is_found_by_number_and_what_does_not_listen_is_left_alone() {
    // The descriptors from 3 on are those of the test's process, whatever they are: only listening ones may be taken.
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&socket);
    let count = (number - LISTEN_FDS_START + 1).to_string();
    match passed(&std::process::id().to_string(), &count, "") {
        Ok(found) => assert!(found.iter().any(|(address, _)| *address == socket.local_addr().unwrap())),
        // A gap in the numbers: systemd leaves none.
        Err(error) => assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::BADF.raw_os_error())),
    }
}
