use super::*;
use proptest::prelude::*;

const KEEP: PathPolicy = PathPolicy { escaped_slashes: EscapedSlashes::Keep, keep_double_slashes: false };
const REJECT: PathPolicy = PathPolicy { escaped_slashes: EscapedSlashes::Reject, keep_double_slashes: false };
const REDIRECT: PathPolicy =
    PathPolicy { escaped_slashes: EscapedSlashes::DecodeAndRedirect, keep_double_slashes: false };

fn normal(raw: &str) -> String {
    normalize(raw.as_bytes(), KEEP).unwrap_or_else(|e| panic!("{raw}: {e}")).into_owned()
}

fn location(raw: &str, policy: PathPolicy) -> String {
    match normalize(raw.as_bytes(), policy) {
        Err(PathError::Redirect { location }) => location,
        other => panic!("{raw}: {other:?}"),
    }
}

#[test]
fn a_normal_path_is_borrowed() {
    for path in ["/", "/a", "/a/", "/a.b/..c/.d/e..", "/a%2Fb/%C3%A9%20", "/-._~!$&'()*+,;=:@", "/...", "/a/.../b"] {
        assert!(matches!(normalize(path.as_bytes(), KEEP), Ok(Cow::Borrowed(p)) if p == path), "{path}");
    }
    assert!(matches!(normalize(b"", KEEP), Ok(Cow::Borrowed("/"))));
}

#[test]
fn unreserved_escapes_are_decoded_and_others_get_upper_case_digits_rfc3986_6_2_2() {
    assert_eq!(normal("/%61%7e%2D%5f/%c3%a9"), "/a~-_/%C3%A9");
    assert_eq!(normal("/%21%3a"), "/%21%3A", "reserved characters keep their escape");
}

#[test]
fn nothing_is_decoded_twice() {
    assert_eq!(normal("/%2561"), "/%2561");
    assert_eq!(normal("/%252e%252e/%252f"), "/%252e%252e/%252f");
}

#[test]
fn dot_segments_go_and_never_lead_above_the_root_rfc3986_5_2_4() {
    for (raw, want) in [
        ("/a/b/c/./../../g", "/a/g"),
        ("/mid/content=5/../6", "/mid/6"),
        ("/..", "/"),
        ("/../../a", "/a"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/.", "/"),
        ("/./a", "/a"),
        ("/%2e%2E/a", "/a"),
        ("/a/%2e%2e/b", "/b"),
        ("/a/.%2e", "/"),
    ] {
        assert_eq!(normal(raw), want, "{raw}");
    }
}

#[test]
fn dot_segments_go_before_slashes_are_merged() {
    assert_eq!(normal("/a//../b"), "/a/b");
    assert_eq!(normal("//a///b//"), "/a/b/");
    let keep = PathPolicy { keep_double_slashes: true, ..KEEP };
    assert_eq!(normalize(b"//a///b", keep), Ok(Cow::Borrowed("//a///b")));
}

#[test]
fn a_backslash_is_a_slash() {
    assert_eq!(normal("/a\\b\\..\\c"), "/a/c");
    assert_eq!(normal("\\a"), "/a");
}

#[test]
fn what_browsers_send_raw_but_no_uri_holds_is_escaped() {
    assert_eq!(normal("/a|b[0]{x}^`\"<>"), "/a%7Cb%5B0%5D%7Bx%7D%5E%60%22%3C%3E");
    assert_eq!(normal("/a%7cb"), normal("/a|b"));
}

#[test]
fn escaped_slashes_are_data_where_they_are_kept() {
    assert_eq!(normal("/queues/%2f/a%5cb"), "/queues/%2F/a%5Cb");
}

#[test]
fn a_dot_segment_behind_an_escaped_slash_is_refused_where_those_are_kept() {
    for raw in ["/public/..%2Fadmin", "/public%2f..", "/a%5c..%5cb", "/a/%2e%2e%2fb", "/..%2F"] {
        assert_eq!(normalize(raw.as_bytes(), KEEP), Err(PathError::HiddenDotSegment), "{raw}");
    }
    for fine in ["/a%2F..b", "/a..%2Fb", "/a%2F...", "/a..b%2F"] {
        assert_eq!(normal(fine), fine);
    }
}

#[test]
fn escaped_slashes_are_rejected_where_the_listener_says_so() {
    for raw in ["/a%2Fb", "/a%5cb"] {
        let error = normalize(raw.as_bytes(), REJECT).unwrap_err();
        assert_eq!((error.clone(), error.reason()), (PathError::EscapedSlash, Reason::EscapedSlash), "{raw}");
    }
    assert_eq!(normalize(b"/a/b", REJECT), Ok(Cow::Borrowed("/a/b")));
}

#[test]
fn escaped_slashes_lead_to_the_decoded_form_where_the_listener_redirects() {
    assert_eq!(location("/a%2fb", REDIRECT), "/a/b");
    assert_eq!(location("/public/..%2fadmin", REDIRECT), "/admin");
    assert_eq!(location("/a%5c%2e%2e%5cb", REDIRECT), "/b");
    assert_eq!(location("/a%2F%252F", REDIRECT), "/a/%252F", "one round of decoding");
    assert_eq!(PathError::Redirect { location: String::new() }.reason(), Reason::PathNormalized);
}

#[test]
fn a_redirect_never_leads_to_another_host() {
    let keep_double = PathPolicy { keep_double_slashes: true, ..REDIRECT };
    for policy in [REDIRECT, keep_double] {
        for raw in ["/%2Fevil.example", "/%5Cevil.example", "/%2F/%5c%2Fevil.example", "/a/..%2F/evil.example"] {
            assert_eq!(location(raw, policy), "/evil.example", "{raw}");
        }
    }
}

#[test]
fn what_no_path_may_hold_is_refused_with_its_place() {
    for (raw, want) in [
        (&b"a"[..], PathError::NotAbsolute),
        (b"*", PathError::NotAbsolute),
        (b"/a%", PathError::InvalidPercent { at: 2 }),
        (b"/a%2", PathError::InvalidPercent { at: 2 }),
        (b"/a%g0", PathError::InvalidPercent { at: 2 }),
        (b"/a%+1", PathError::InvalidPercent { at: 2 }),
        (b"/%00", PathError::Nul { at: 1 }),
        (b"/a b", PathError::Character { byte: b' ', at: 2 }),
        (b"/a\tb", PathError::Character { byte: b'\t', at: 2 }),
        (b"/\x7f", PathError::Character { byte: 0x7f, at: 1 }),
        (b"/\xc3\xa9", PathError::Character { byte: 0xc3, at: 1 }),
        (b"/a?b", PathError::Character { byte: b'?', at: 2 }),
        (b"/a#b", PathError::Fragment { at: 2 }),
    ] {
        for policy in [KEEP, REJECT, REDIRECT] {
            assert_eq!(normalize(raw, policy), Err(want.clone()), "{}", raw.escape_ascii());
        }
        assert_eq!(want.reason(), Reason::InvalidTarget);
    }
    assert_eq!(normalize(b"/a%2Fb%zz", REJECT), Err(PathError::InvalidPercent { at: 6 }), "grammar before policy");
}

#[test]
fn a_query_is_checked_but_not_changed() {
    assert_eq!(check_query(b"a=%zz&b=/../?\\|+"), Ok(()));
    assert_eq!(check_query(b"a=b c"), Err(PathError::Character { byte: b' ', at: 3 }));
    assert_eq!(check_query("é".as_bytes()), Err(PathError::Character { byte: 0xc3, at: 0 }));
    assert_eq!(check_query(b"a#b"), Err(PathError::Fragment { at: 1 }));
    assert_eq!(check_query(b"\x7f"), Err(PathError::Character { byte: 0x7f, at: 0 }));
}

#[test]
fn a_configured_path_gets_the_form_that_requests_have() {
    assert_eq!(normalize_configured("/café au lait/%7e").unwrap(), "/caf%C3%A9%20au%20lait/~");
    assert_eq!(normalize_configured("/a?b#c").unwrap(), "/a%3Fb%23c");
    assert_eq!(normalize_configured("/a/../b//c/").unwrap(), "/b/c/");
    assert_eq!(normalize_configured("/50%").unwrap_err(), PathError::InvalidPercent { at: 3 });
    assert_eq!(normalize_configured("").unwrap_err(), PathError::NotAbsolute);
    assert_eq!(normalize_configured("a").unwrap_err(), PathError::NotAbsolute);
}

/// The same rules, a list of segments at a time and a string for each step.
fn reference(raw: &str, policy: PathPolicy) -> Result<String, &'static str> {
    let mut text = String::new();
    let mut slash = false;
    let mut rest = raw;
    while let Some(c) = rest.chars().next() {
        let mut width = c.len_utf8();
        match c {
            '%' => {
                let hex = rest.get(1..3).filter(|h| h.chars().all(|c| c.is_ascii_hexdigit())).ok_or("percent")?;
                width = 3;
                let value = char::from(u8::from_str_radix(hex, 16).unwrap());
                match value {
                    '\0' => return Err("nul"),
                    '/' | '\\' => {
                        slash = true;
                        if policy.escaped_slashes == EscapedSlashes::DecodeAndRedirect {
                            text.push('/');
                        } else {
                            text.push_str(&format!("%{}", hex.to_uppercase()));
                        }
                    }
                    v if v.is_ascii_alphanumeric() || "-._~".contains(v) => text.push(v),
                    _ => text.push_str(&format!("%{}", hex.to_uppercase())),
                }
            }
            '\\' => text.push('/'),
            c if "\"<>[]^`{|}".contains(c) => text.push_str(&format!("%{:02X}", c as u32)),
            '#' => return Err("fragment"),
            c if c == '?' || c == ' ' || c.is_control() || !c.is_ascii() => return Err("character"),
            c => text.push(c),
        }
        rest = &rest[width..];
    }
    if slash && policy.escaped_slashes == EscapedSlashes::Reject {
        return Err("slash");
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut folder = false;
    for segment in text.split('/').skip(1) {
        folder = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            other => kept.push(other),
        }
    }
    let mut path = kept.iter().map(|s| format!("/{s}")).collect::<String>();
    if folder {
        path.push('/');
    }
    while !policy.keep_double_slashes && path.contains("//") {
        path = path.replace("//", "/");
    }
    if slash && policy.escaped_slashes == EscapedSlashes::DecodeAndRedirect {
        return Err("redirect");
    }
    let open = path.replace("%2F", "/").replace("%5C", "/");
    if slash && open.split('/').any(|s| s == "..") {
        return Err("hidden");
    }
    Ok(path)
}

fn word(error: &PathError) -> &'static str {
    match error {
        PathError::NotAbsolute => "relative",
        PathError::InvalidPercent { .. } => "percent",
        PathError::Nul { .. } => "nul",
        PathError::Character { .. } => "character",
        PathError::Fragment { .. } => "fragment",
        PathError::EscapedSlash => "slash",
        PathError::HiddenDotSegment => "hidden",
        PathError::Redirect { .. } => "redirect",
    }
}

/// Mostly what is interesting in a path, sometimes anything.
fn raw_path() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => prop::sample::select(vec!["/", "/", ".", "..", "a", "b", "/../", "//", "\\"]),
        4 => prop::sample::select(vec!["%2F", "%2f", "%5c", "%2e", "%2E%2e", "%61", "%7E", "%25", "%252e", "%C3%a9"]),
        1 => prop::sample::select(vec!["%", "%0", "%00", "%zz", "#", "?", " ", "é", "|", "[", "\u{1}"]),
    ];
    prop_oneof![
        9 => prop::collection::vec(piece, 0..14).prop_map(|p| format!("/{}", p.concat())),
        1 => any::<String>().prop_map(|s| format!("/{s}")),
    ]
}

fn policies() -> impl Strategy<Value = PathPolicy> {
    let slashes =
        prop::sample::select(vec![EscapedSlashes::Keep, EscapedSlashes::Reject, EscapedSlashes::DecodeAndRedirect]);
    (slashes, any::<bool>())
        .prop_map(|(escaped_slashes, keep_double_slashes)| PathPolicy { escaped_slashes, keep_double_slashes })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn the_form_equals_the_slow_reference(raw in raw_path(), policy in policies()) {
        let got = normalize(raw.as_bytes(), policy).map(Cow::into_owned).map_err(|e| word(&e));
        prop_assert_eq!(got, reference(&raw, policy));
    }

    #[test]
    fn a_normal_form_is_its_own_normal_form_and_is_borrowed(raw in raw_path(), policy in policies()) {
        let once = match normalize(raw.as_bytes(), policy) {
            Ok(path) => path.into_owned(),
            Err(PathError::Redirect { location }) => location,
            Err(_) => return Ok(()),
        };
        prop_assert!(matches!(normalize(once.as_bytes(), policy), Ok(Cow::Borrowed(p)) if p == once), "{}", once);
    }

    #[test]
    fn a_normal_form_holds_no_dot_segment_and_no_byte_beyond_the_uri_alphabet(raw in raw_path(), policy in policies()) {
        if let Ok(path) = normalize(raw.as_bytes(), policy) {
            prop_assert!(path.starts_with('/'));
            prop_assert!(!path.split('/').any(|s| s == "." || s == ".."), "{}", path);
            prop_assert!(path.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&b)), "{}", path);
        }
    }

    #[test]
    fn bytes_of_any_kind_never_panic(raw in prop::collection::vec(any::<u8>(), 0..40), policy in policies()) {
        let _ = normalize(&raw, policy);
        let _ = check_query(&raw);
    }
}
