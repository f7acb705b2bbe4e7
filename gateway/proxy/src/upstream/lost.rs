//! Endpoints that are gone without a word: a pod whose network is taken down under a running request, a node without power.
//!
//! Nothing comes back from there, no reset either, and a request that was sent would wait for its timeout. The kernel knows
//! better: it repeats what is not acknowledged. Not `TCP_USER_TIMEOUT`: that also counts the time in which a living endpoint
//! reads nothing of a large upload. Not HTTP/2's PING: servers of gRPC close connections that ping more often than they
//! allow, by default every five minutes.

use pingora_core::protocols::l4::ext::get_tcp_info;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::os::fd::{AsFd, RawFd};
use std::time::Duration;

/// How long nothing at all has come back for an endpoint to be lost. The kernel has repeated itself five times by then.
pub(super) const LOST_AFTER: Duration = Duration::from_secs(10);

/// What a read ends with then.
pub(super) fn lost() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the endpoint's host does not acknowledge what it is sent")
}

/// An unused connection is asked whether it is alive after so long, and so often.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(20);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;

/// Has the kernel find out about the other end while nothing is sent.
pub(super) fn keep_alive(socket: &impl AsFd) -> io::Result<()> {
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY).with_retries(KEEPALIVE_PROBES);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

/// Whether what was sent has been repeated, and for so long nothing was acknowledged and nothing new was sent.
pub(super) fn is_lost(socket: RawFd, after: Duration) -> bool {
    get_tcp_info(socket).is_ok_and(|info| {
        let silence = info.tcpi_last_ack_recv.min(info.tcpi_last_data_sent);
        info.tcpi_retransmits > 0 && Duration::from_millis(silence.into()) >= after
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockFilter;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::time::Instant;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn an_endpoint_that_acknowledges_nothing_is_lost_and_one_that_reads_nothing_is_not() {
        const AFTER: Duration = Duration::from_secs(1);
        let (mut to_lost, lost) = pair();
        // Drops whatever comes in for this socket, before TCP sees it.
        SockRef::from(&lost).attach_filter(&[SockFilter::new(0x6, 0, 0, 0)]).unwrap();
        let (mut to_slow, _slow) = pair();
        to_slow.set_nonblocking(true).unwrap();
        while to_slow.write(&[0; 1 << 16]).is_ok() {}
        let begin = Instant::now();
        to_lost.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert!(!is_lost(to_lost.as_raw_fd(), AFTER), "not yet");
        while !is_lost(to_lost.as_raw_fd(), AFTER) {
            assert!(begin.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(begin.elapsed() >= AFTER);
        assert!(!is_lost(to_slow.as_raw_fd(), AFTER));
    }
}
