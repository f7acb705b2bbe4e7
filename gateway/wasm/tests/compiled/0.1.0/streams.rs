//! A guest that sees bodies piece by piece and does with them what its configuration says. What it has seen of each stands in
//! an attribute.

use schemars::JsonSchema;
use serde::Deserialize;
use sluice_plugin::{
    Decision, OnRequestPiece, OnResponsePiece, OnResponseTrailers, Piece, Plugin, Reply, Request, Response, Trailers,
    attributes,
};
use std::hint::black_box;

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The mark.
    name: String,
    #[serde(default)]
    request: Option<Way>,
    #[serde(default)]
    response: Option<Way>,
}

/// What becomes of a body.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Way {
    /// `upper`, `double`, `frame` (the name before the first piece and behind the last), `keep` (all of it comes with the
    /// last piece), `swallow`, `large`.
    #[serde(default)]
    make: Option<String>,
    /// `trap`, `loop`, `abort`, `answer`.
    #[serde(default)]
    end: Option<String>,
    /// Bytes of the body before that end.
    #[serde(default)]
    after: usize,
}

#[derive(Default)]
pub struct Seen {
    pieces: u32,
    bytes: usize,
    kept: Vec<u8>,
}

pub struct Streams(Config);

impl Plugin for Streams {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        Ok(Streams(config))
    }
}

impl Streams {
    fn pass(&self, which: &str, way: Option<&Way>, seen: &mut Seen, piece: &mut Piece<'_>) -> Decision {
        let bytes = piece.read();
        assert_eq!(bytes.len() as u64, piece.size());
        assert_eq!(piece.is_first(), seen.pieces == 0, "it remembers another body");
        (seen.pieces, seen.bytes) = (seen.pieces + 1, seen.bytes + bytes.len());
        let told = format!("{} bytes, last: {}", seen.bytes, piece.is_last());
        attributes::set_str(&format!("{which}.{}", self.0.name), &told).unwrap();
        let Some(way) = way else { return Decision::Continue };
        if let Some(end) = way.end.as_deref()
            && seen.bytes > way.after
        {
            match end {
                "trap" => panic!("told to trap"),
                "loop" => loop {
                    black_box(0);
                },
                "abort" => return Decision::Abort,
                _ => return Reply::new(418).header("x-answered", &self.0.name).text("no tea\n").into(),
            }
        }
        let made = match way.make.as_deref() {
            Some("upper") => bytes.to_ascii_uppercase(),
            Some("double") => bytes.repeat(2),
            Some("frame") => {
                let before = if piece.is_first() { format!("<{}>", self.0.name) } else { String::new() };
                let behind = if piece.is_last() { format!("</{}>", self.0.name) } else { String::new() };
                [before.as_bytes(), &bytes, behind.as_bytes()].concat()
            }
            Some("keep") => {
                seen.kept.extend(bytes);
                if piece.is_last() { std::mem::take(&mut seen.kept) } else { Vec::new() }
            }
            Some("swallow") => Vec::new(),
            Some("large") => {
                let refused = piece.replace(&vec![b'x'; 2 << 20]).is_err();
                attributes::set(&format!("{which}.refused"), refused).unwrap();
                return Decision::Continue;
            }
            _ => return Decision::Continue,
        };
        piece.replace(&made).unwrap();
        Decision::Continue
    }
}

impl OnRequestPiece for Streams {
    type State = Seen;

    fn on_request_piece(&self, seen: &mut Seen, _: &Request<'_>, piece: &mut Piece<'_>) -> Decision {
        self.pass("request", self.0.request.as_ref(), seen, piece)
    }
}

impl OnResponsePiece for Streams {
    type State = Seen;

    fn on_response_piece(
        &self,
        seen: &mut Seen,
        request: &Request<'_>,
        response: &Response<'_>,
        piece: &mut Piece<'_>,
    ) -> Decision {
        attributes::set_str("heads", &format!("{} {}", request.method(), response.status())).unwrap();
        self.pass("response", self.0.response.as_ref(), seen, piece)
    }
}

impl OnResponseTrailers for Streams {
    fn on_response_trailers(&self, _: &Request<'_>, _: &Response<'_>, trailers: &mut Trailers<'_>) {
        let known = trailers.get_str("x-trailer").unwrap_or_default();
        assert!(trailers.set("content-length", "1").is_err() && trailers.set("x-a", "a\r\nb").is_err());
        trailers.append("x-seen", &self.0.name).unwrap();
        trailers.set("x-trailer", format!("{known}+{}", self.0.name)).unwrap();
        trailers.remove("x-gone").unwrap();
        let count = trailers.entries().len().to_string();
        trailers.set("x-count", count).unwrap();
    }
}

sluice_plugin::export!(Streams: request_body_stream, response_body_stream, response_trailers);
