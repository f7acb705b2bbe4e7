//! What the plugin itself answers: short pages for whoever looks at one, problem details (RFC 9457) for programs.
//!
//! All texts are the plugin's own. Of what a request or the provider brings nothing is repeated but error codes, which are
//! words of letters, digits and `_-.`.

use serde_json::json;
use sluice_plugin::{Reply, Request};

/// A text, and the way on that a page offers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Notice<'n> {
    pub(crate) status: u16,
    pub(crate) title: &'n str,
    pub(crate) text: &'n str,
    pub(crate) link: Option<(&'n str, &'n str)>,
}

/// Whether a request loads a page, so that a browser that is sent elsewhere will show what is there.
pub(crate) fn is_navigation(request: &Request<'_>) -> bool {
    // A page that is loaded before anybody asks for it must not begin anything.
    let ahead = request.header_str("sec-purpose").is_some_and(|purpose| purpose.contains("prefetch"));
    matches!(request.method().as_str(), "GET" | "HEAD") && !ahead && is_for_a_reader(request)
}

/// Whether somebody will look at the answer.
fn is_for_a_reader(request: &Request<'_>) -> bool {
    match request.header_str("sec-fetch-mode") {
        Some(mode) => mode == "navigate",
        // As without HTTPS, where browsers say less.
        None => {
            let accept = request.header_str("accept").unwrap_or_default().to_ascii_lowercase();
            accept.contains("text/html") && request.header("x-requested-with").is_none()
        }
    }
}

/// A redirect that nobody keeps, and that tells the next site nothing of this one.
pub(crate) fn redirect(status: u16, location: &str) -> Reply {
    Reply::new(status)
        .header("location", location)
        .header("cache-control", "no-store")
        .header("referrer-policy", "no-referrer")
}

impl<'n> Notice<'n> {
    /// With a way on that leads to this page.
    pub(crate) fn back_to(self, page: &'n str) -> Notice<'n> {
        Notice { link: self.link.map(|(_, text)| (page, text)), ..self }
    }

    pub(crate) fn reply(&self, request: &Request<'_>) -> Reply {
        if is_for_a_reader(request) { self.page() } else { self.problem() }
    }

    pub(crate) fn page(&self) -> Reply {
        let link = self.link.map(|(to, text)| format!("<p><a href=\"{}\">{}</a></p>\n", escaped(to), escaped(text)));
        let content = format!("<p>{}</p>\n{}", escaped(self.text), link.unwrap_or_default());
        page(self.status, self.title, &content, "no-referrer")
    }

    fn problem(&self) -> Reply {
        let problem = json!({ "status": self.status, "title": self.title, "detail": self.text });
        let reply = Reply::new(self.status)
            .header("content-type", "application/problem+json")
            .header("cache-control", "no-store")
            .body(format!("{problem}\n"));
        // RFC 9110, section 11.6.1 wants one. No client knows this scheme, so none asks for a password.
        if self.status == 401 { reply.header("www-authenticate", "Cookie realm=\"sluice\"") } else { reply }
    }
}

/// `content` is HTML; `referrer` says what the page's links and forms tell of it.
pub(crate) fn page(status: u16, title: &str, content: &str, referrer: &str) -> Reply {
    let title = escaped(title);
    let reply = Reply::new(status)
        .header("content-type", "text/html; charset=utf-8")
        .header("cache-control", "no-store")
        .header("content-security-policy", "default-src 'none'; frame-ancestors 'none'")
        .header("referrer-policy", referrer)
        .header("x-content-type-options", "nosniff")
        .body(format!(
            "<!doctype html>\n<html lang=\"en\">\n<title>{title}</title>\n<h1>{title}</h1>\n{content}</html>\n"
        ));
    if status == 401 { reply.header("www-authenticate", "Cookie realm=\"sluice\"") } else { reply }
}

pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_plugin::testing::Exchange;

    #[test]
    fn a_navigation_is_what_a_browser_shows() {
        let html = "text/html,application/xhtml+xml,*/*;q=0.8";
        for (exchange, navigates) in [
            (Exchange::get("/").header("accept", html), true),
            (Exchange::new("HEAD", "/").header("accept", html), true),
            (Exchange::get("/").header("sec-fetch-mode", "navigate"), true),
            (Exchange::get("/").header("sec-fetch-mode", "cors").header("accept", html), false),
            (Exchange::get("/").header("sec-fetch-mode", "no-cors").header("accept", "image/*"), false),
            (Exchange::get("/").header("sec-fetch-mode", "websocket"), false),
            (
                Exchange::get("/").header("sec-fetch-mode", "navigate").header("sec-purpose", "prefetch;prerender"),
                false,
            ),
            (Exchange::new("POST", "/").header("accept", html), false),
            (Exchange::get("/").header("accept", html).header("x-requested-with", "XMLHttpRequest"), false),
            (Exchange::get("/").header("accept", "*/*"), false),
            (Exchange::get("/"), false),
        ] {
            assert_eq!(is_navigation(&exchange.request()), navigates, "{exchange:?}");
        }
    }

    #[test]
    fn nothing_of_a_text_is_markup() {
        let notice = Notice { status: 400, title: "<b>", text: "a & b", link: Some(("/\"onclick='x'", "<i>")) };
        let body = String::from_utf8(notice.page().body).unwrap();
        assert!(body.contains("&lt;b&gt;") && body.contains("a &amp; b") && body.contains("&lt;i&gt;"), "{body}");
        assert!(body.contains("href=\"/&quot;onclick=&#39;x&#39;\""), "{body}");
    }
}
