//! A backend that answers with the bytes it is told to answer, for what a well-behaved server never sends.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub struct RawBackend {
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<(usize, String)>>>,
    _tasks: JoinSet<()>,
}

/// What happens to the connection after the answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    KeepOpen,
    Close,
}

impl RawBackend {
    /// Reads a request's head, sends `answer`, and goes on with the next one of that connection (or not).
    pub async fn answering(answer: impl Into<Vec<u8>>, then: Then) -> RawBackend {
        let answer: Arc<[u8]> = answer.into().into();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let records = heads.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            let mut number = 0;
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(answer_all(stream, number, answer.clone(), then, records.clone()));
                number += 1;
            }
        });
        RawBackend { address, heads, _tasks: tasks }
    }

    /// The head of each request, with the number of the connection it came on.
    pub fn heads(&self) -> Vec<(usize, String)> {
        self.heads.lock().unwrap().clone()
    }
}

async fn answer_all(
    mut stream: TcpStream,
    number: usize,
    answer: Arc<[u8]>,
    then: Then,
    heads: Arc<Mutex<Vec<(usize, String)>>>,
) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        };
        let head: Vec<u8> = buffer.drain(..end).collect();
        heads.lock().unwrap().push((number, String::from_utf8_lossy(&head).into_owned()));
        if stream.write_all(&answer).await.is_err() || then == Then::Close {
            return;
        }
    }
}
