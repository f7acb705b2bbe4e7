//! What a phase decides.

/// What is to happen next.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// The exchange goes on.
    Continue,
    /// The plugin answers; no later plugin and no backend sees the request.
    Respond(Reply),
    /// Read the message's body whole. Of `on_request`, which [`OnRequestBody`](crate::OnRequestBody) follows, and of
    /// `on_response`, which [`OnResponseBody`](crate::OnResponseBody) does.
    ReadBody(ReadBody),
    /// Cut the exchange short: what has begun is left without its end. Of `on_request_piece` and `on_response_piece` only.
    Abort,
}

impl Decision {
    pub fn is_continue(&self) -> bool {
        matches!(self, Decision::Continue)
    }
}

impl From<Reply> for Decision {
    fn from(reply: Reply) -> Decision {
        Decision::Respond(reply)
    }
}

impl From<ReadBody> for Decision {
    fn from(read: ReadBody) -> Decision {
        Decision::ReadBody(read)
    }
}

/// An answer of the plugin's own. The gateway sets `content-length`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, Vec<u8>)>,
    /// At most 1 MiB.
    pub body: Vec<u8>,
}

impl Reply {
    /// An empty answer, 200 to 599.
    pub fn new(status: u16) -> Reply {
        Reply { status, headers: Vec::new(), body: Vec::new() }
    }

    /// Adds a field.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Reply {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// A body of `text/plain`.
    pub fn text(self, text: &str) -> Reply {
        self.header("content-type", "text/plain; charset=utf-8").body(text)
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Reply {
        self.body = body.into();
        self
    }
}

/// The wish to see a body whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct ReadBody {
    /// Bytes at most; the Plugin's `limits.bodyBuffer` bounds it.
    pub limit: u64,
    /// Whether a larger body goes on unread, instead of being answered with 413, or 502 where it is a response's.
    pub pass_over_limit: bool,
}

impl ReadBody {
    /// Reads at most `limit` bytes; a larger body is answered with 413, or 502 where it is a response's.
    pub fn at_most(limit: u64) -> ReadBody {
        ReadBody { limit, pass_over_limit: false }
    }

    /// A larger body goes on, and the plugin is not called with it.
    pub fn or_pass(self) -> ReadBody {
        ReadBody { pass_over_limit: true, ..self }
    }
}
