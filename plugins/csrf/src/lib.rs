//! Refuses requests that another site made a browser send (cross-site request forgery): by the origin that the browser
//! tells, or by a token that only the site's own pages can read.

use kit::{HeaderName, cookie, origin, same_secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_plugin::{Decision, OnRequest, OnResponse, Plugin, Reply, Request, Response, log, random};

/// What tells a site's own requests from those of others.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// What a request has to show.
    pub check: Check,
    /// Origins whose pages may send requests too: `https://app.example`.
    pub trusted_origins: Vec<String>,
    /// Methods that change nothing, and are not checked. (A WebSocket's handshake is, by its origin.)
    #[schemars(inner(regex(pattern = "^[A-Z]+$")))]
    pub safe_methods: Vec<String>,
    /// Whether a request that tells no origin passes that check. Browsers tell one; programs do not.
    pub allow_without_origin: bool,
    /// The cookie that holds the token. Browsers take one that begins with `__Host-` by HTTPS only, and from no other host.
    #[schemars(regex(pattern = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"))]
    pub cookie: String,
    /// The header in which a page sends the token back.
    pub header: HeaderName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Check {
    /// The page's origin (`Sec-Fetch-Site`, `Origin`, or else `Referer`) is the request's own, or a trusted one.
    Origin,
    /// A header repeats the token in the cookie, which the plugin hands out with answers to safe methods.
    DoubleSubmit,
    /// Both.
    Both,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            check: Check::Origin,
            trusted_origins: Vec::new(),
            safe_methods: ["GET", "HEAD", "OPTIONS", "TRACE"].map(str::to_owned).into(),
            allow_without_origin: false,
            cookie: "__Host-csrf".to_owned(),
            header: HeaderName::new("x-csrf-token").unwrap_or_else(|| unreachable!("it is a name")),
        }
    }
}

pub struct Csrf {
    origin: bool,
    token: bool,
    trusted_origins: Vec<String>,
    safe_methods: Vec<String>,
    allow_without_origin: bool,
    cookie: String,
    header: HeaderName,
}

/// Bytes of a token.
const TOKEN: usize = 32;

impl Plugin for Csrf {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        let trusted_origins = config.trusted_origins.iter().enumerate().map(|(index, text)| {
            let wrong = || format!("trustedOrigins[{index}]: `{text}` is not an origin: write https://app.example");
            let whole = text.split_once("://").is_some_and(|(_, host)| !host.contains(['/', '?', '#']));
            origin::of(text).filter(|_| whole).ok_or_else(wrong)
        });
        Ok(Csrf {
            origin: config.check != Check::DoubleSubmit,
            token: config.check != Check::Origin,
            trusted_origins: trusted_origins.collect::<Result<_, _>>()?,
            safe_methods: config.safe_methods,
            allow_without_origin: config.allow_without_origin,
            cookie: config.cookie,
            header: config.header,
        })
    }
}

impl Csrf {
    fn is_safe(&self, method: &str) -> bool {
        self.safe_methods.iter().any(|safe| safe == method)
    }

    fn origin_fits(&self, request: &Request<'_>) -> bool {
        let origins = request.header_values("origin");
        // Browsers tell it of themselves; no page can.
        if matches!(request.header_str("sec-fetch-site").as_deref(), Some("same-origin" | "none")) {
            return true;
        }
        let told = match &origins[..] {
            [] => request.header_str("referer"),
            [origin] => String::from_utf8(origin.clone()).ok(),
            _ => return false,
        };
        let Some(told) = told else { return origins.is_empty() && self.allow_without_origin };
        let Some(told) = origin::of(&told) else { return false };
        let own = origin::of(&format!("{}://{}", request.scheme(), request.authority()));
        own.is_some_and(|own| own == told) || self.trusted_origins.contains(&told)
    }

    fn token_fits(&self, request: &Request<'_>) -> bool {
        let (cookies, headers) = (cookie::values(request, &self.cookie), request.header_values(&self.header));
        match (&cookies[..], &headers[..]) {
            // A short one may be guessed; it is none of ours.
            ([cookie], [header]) => cookie.len() >= TOKEN && same_secret(cookie.as_bytes(), header),
            _ => false,
        }
    }
}

fn refuse(why: &str) -> Decision {
    Reply::new(403).text(why).into()
}

impl OnRequest for Csrf {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        let safe = self.is_safe(&request.method());
        // The answer to a handshake can be read by whoever asked: no same-origin policy protects a WebSocket.
        let handshake = safe && request.header("sec-websocket-key").is_some();
        if self.origin && (!safe || handshake) && !self.origin_fits(request) {
            return refuse("the request comes from another site\n");
        }
        if self.token && !safe && !self.token_fits(request) {
            return refuse("the token against forged requests is missing or wrong\n");
        }
        Decision::Continue
    }
}

impl OnResponse for Csrf {
    fn on_response(&self, request: &Request<'_>, response: &mut Response<'_>) -> Decision {
        if self.token && self.is_safe(&request.method()) && cookie::values(request, &self.cookie).is_empty() {
            let secure = request.scheme() == "https" || self.cookie.starts_with("__");
            let cookie = format!(
                "{}={}; Path=/; SameSite=Lax{}",
                self.cookie,
                kit::hex(&random::array::<TOKEN>()),
                if secure { "; Secure" } else { "" }
            );
            if let Err(reason) = response.append_header("set-cookie", cookie) {
                log::error(&format!("no token was handed out: {reason}"));
            }
        }
        Decision::Continue
    }
}

sluice_plugin::export!(Csrf: request, response);

#[cfg(test)]
mod tests;
