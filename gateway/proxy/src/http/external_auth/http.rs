//! The protocol HTTP of the filter: the service is sent the request's head, under its own path, and answers 200 or the client.

use super::{Allowed, Change, Denied, Failed, How, Verdict, belongs_to_connection};
use crate::outbound::Answer;
use ::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ::http::uri::{Authority, PathAndQuery};
use ::http::{Error, StatusCode};
use bytes::Bytes;
use pingora_http::RequestHeader;
use sluice_wasm::{OutboundRequest, OwnBounds};
use std::time::Instant;

pub(super) fn question(
    request: &RequestHeader,
    prefix: &str,
    passed: &[HeaderName],
    body: Bytes,
    until: Instant,
) -> Result<OutboundRequest, Error> {
    let target = request.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let target = format!("{prefix}{target}").parse::<PathAndQuery>()?;
    let host = request.headers.get(header::HOST).map(HeaderValue::as_bytes).unwrap_or_default();
    let authority = Some(Authority::try_from(host)?);
    let mut headers = HeaderMap::new();
    for name in passed.iter().chain([&header::AUTHORIZATION]) {
        if !headers.contains_key(name) {
            for value in request.headers.get_all(name) {
                headers.append(name.clone(), value.clone());
            }
        }
    }
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    let method = request.method.clone();
    let (max_body, own) = (super::MAX_ANSWER, OwnBounds::default());
    Ok(OutboundRequest { method, target, authority, headers, body, until, max_body, own })
}

/// `passed`: fields that the request goes on with; none: all that do not tell of the answer itself.
pub(super) fn verdict(answer: Answer, passed: &[HeaderName]) -> Result<Verdict, Failed> {
    let Answer { status, headers, body, .. } = answer;
    match status.as_u16() {
        200 => Ok(Verdict::Allowed(allowed(&headers, passed))),
        300..=499 => {
            let headers = headers.iter().filter(|(name, _)| !belongs_to_connection(name));
            let headers = headers.map(|(name, value)| (name.clone(), value.clone())).collect();
            Ok(Verdict::Denied(Denied { status, headers, body }))
        }
        // It is no permission, and can be no answer to a request that did not happen.
        201..=299 => {
            Ok(Verdict::Denied(Denied { status: StatusCode::FORBIDDEN, headers: HeaderMap::new(), body: Bytes::new() }))
        }
        _ => Err(Failed::Status(status)),
    }
}

fn allowed(headers: &HeaderMap, passed: &[HeaderName]) -> Allowed {
    let mut allowed = Allowed::default();
    let mut take = |name: &HeaderName| {
        for (n, value) in headers.get_all(name).iter().enumerate() {
            let how = if n == 0 { How::Set } else { How::Add };
            allowed.request.push(Change { name: name.clone(), value: value.clone(), how });
        }
    };
    if passed.is_empty() {
        headers.keys().filter(|name| !belongs_to_connection(name) && !is_of_the_answer(name)).for_each(&mut take);
        return allowed;
    }
    passed.iter().for_each(&mut take);
    // These are the service's word: a backend that believes them must not hear a client's.
    allowed.remove = passed.to_vec();
    allowed
}

/// Fields that describe the answer and its body: of the request they would be false (RFC 9110, sections 8 and 10.2).
fn is_of_the_answer(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONTENT_TYPE
            | header::CONTENT_ENCODING
            | header::CONTENT_LANGUAGE
            | header::CONTENT_LOCATION
            | header::CONTENT_RANGE
            | header::ETAG
            | header::LAST_MODIFIED
            | header::DATE
            | header::SERVER
            | header::AGE
            | header::VARY
            | header::CACHE_CONTROL
            | header::SET_COOKIE
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn answer(status: u16, fields: &[(&'static str, &'static str)]) -> Answer {
        Answer::of(StatusCode::from_u16(status).unwrap(), map(fields), Bytes::from_static(b"why"))
    }

    #[test]
    fn the_service_is_sent_what_it_is_always_sent_and_what_is_named_gep1494() {
        let request = ::http::Request::builder()
            .method("POST")
            .uri("/cart?x=1")
            .header("host", "shop.example")
            .header("authorization", "Bearer t")
            .header("cookie", "a=b")
            .header("x-a", "1")
            .header("x-a", "2")
            .header("content-length", "99");
        let request = RequestHeader::from(request.body(()).unwrap().into_parts().0);
        let until = Instant::now();
        let asked = question(&request, "", &[], Bytes::new(), until).unwrap();
        assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/cart?x=1"));
        assert_eq!(asked.authority.unwrap(), "shop.example");
        assert_eq!(asked.headers, map(&[("authorization", "Bearer t"), ("content-length", "0")]));
        let names = [HeaderName::from_static("x-a"), HeaderName::from_static("x-none"), header::AUTHORIZATION];
        let asked = question(&request, "/check", &names, Bytes::from_static(b"body"), until).unwrap();
        assert_eq!(asked.target, "/check/cart?x=1");
        let expected = map(&[("x-a", "1"), ("x-a", "2"), ("authorization", "Bearer t"), ("content-length", "4")]);
        assert_eq!(asked.headers, expected);
    }

    #[test]
    fn of_an_allowed_request_what_is_named_is_the_services_word_and_else_all_that_is_not_of_its_answer() {
        let fields =
            [("x-user", "jo"), ("content-type", "text/plain"), ("content-length", "3"), ("connection", "close")];
        let Ok(Verdict::Allowed(all)) = verdict(answer(200, &fields), &[]) else { panic!("it is allowed") };
        assert!(all.remove.is_empty());
        assert_eq!(all.request.iter().map(|change| change.name.as_str()).collect::<Vec<_>>(), ["x-user"]);
        let named = [HeaderName::from_static("x-user"), HeaderName::from_static("x-group")];
        let Ok(Verdict::Allowed(some)) = verdict(answer(200, &fields), &named) else { panic!("it is allowed") };
        assert_eq!(some.remove, named, "what a client says of itself goes");
        assert_eq!(some.request.len(), 1);
    }

    #[test]
    fn only_200_allows_and_what_is_no_verdict_is_a_failure() {
        for (status, expected) in [(302, 302), (401, 401), (403, 403), (404, 404), (201, 403), (204, 403)] {
            let Ok(Verdict::Denied(denied)) = verdict(answer(status, &[("location", "/login")]), &[]) else {
                panic!("{status}")
            };
            assert_eq!(denied.status, expected, "{status}");
            assert_eq!(denied.headers.contains_key("location"), status == expected, "{status}");
        }
        for status in [500, 503] {
            assert!(matches!(verdict(answer(status, &[]), &[]), Err(Failed::Status(_))), "{status}");
        }
    }
}
