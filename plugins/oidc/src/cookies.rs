//! The plugin's cookies: one of the session, in parts where it is long; one of each sign-in under way; and one that counts
//! sign-ins that came to nothing.
//!
//! Where the site is reached by HTTPS their names begin with `__Host-`: browsers take such a one by HTTPS only, and from no
//! other host of the domain (RFC 6265bis).

use kit::cookie;
use sluice_plugin::Request;

/// Characters of a cookie's value. Browsers take 4,096 bytes with name and attributes.
const PART: usize = 3_600;

/// Cookies of one session: together a quarter of what the gateway takes as a request's header section.
const PARTS: usize = 4;

/// Sign-ins under way in one browser: one more takes the place of the oldest.
pub(crate) const LOGINS: usize = 8;

/// Characters of a state that name its cookie.
const ID: usize = 8;

/// Characters of the fingerprint in names.
const MARK: usize = 8;

/// What the names begin with, with and without HTTPS.
#[derive(Debug)]
pub(crate) struct Names {
    prefix: String,
    base: String,
}

impl Names {
    pub(crate) fn new(name: &str, fingerprint: &str) -> Names {
        let mark: String = fingerprint.chars().take(MARK).collect();
        Names { prefix: format!("{name}-"), base: format!("{name}-{mark}") }
    }

    /// The attribute that carries one part of a session to the response: of this configuration, as a request may meet several.
    pub(crate) fn carried(&self, number: usize) -> String {
        format!("oidc.carried.{}.{number}", self.base)
    }

    fn base(&self, secure: bool) -> String {
        format!("{}{}", if secure { "__Host-" } else { "" }, self.base)
    }

    /// The `Cookie` that goes to the backend; none where it stays as it is. Cookies of other configurations go as well: each
    /// is as good as a password to somebody.
    pub(crate) fn hide(&self, request: &Request<'_>) -> Option<Vec<u8>> {
        let is_own = |name: &str| name.strip_prefix("__Host-").unwrap_or(name).starts_with(&self.prefix);
        cookie::without_those(request, is_own)
    }
}

/// The plugin's cookies of one request.
#[derive(Debug)]
pub(crate) struct Jar {
    base: String,
    secure: bool,
    cookies: Vec<(String, String)>,
}

/// What is told a browser: a `Set-Cookie`.
pub(crate) type Told = String;

impl Jar {
    pub(crate) fn of(request: &Request<'_>, names: &Names, secure: bool) -> Jar {
        let base = names.base(secure);
        let cookies = cookie::beginning_with(request, &base);
        Jar { base, secure, cookies }
    }

    /// One to tell by, where the request's own cookies are not known any more.
    pub(crate) fn empty(names: &Names, secure: bool) -> Jar {
        Jar { base: names.base(secure), secure, cookies: Vec::new() }
    }

    fn values<'j>(&'j self, name: &str) -> impl Iterator<Item = &'j str> {
        self.cookies.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn set(&self, name: &str, value: &str, seconds: u64) -> Told {
        let secure = if self.secure { "; Secure" } else { "" };
        format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}")
    }

    fn remove(&self, name: &str) -> Told {
        self.set(name, "", 0)
    }

    fn part(&self, index: usize) -> String {
        if index == 0 { self.base.clone() } else { format!("{}.{index}", self.base) }
    }

    /// What may be the sealed session; there are several where another site of the domain has set one of them.
    pub(crate) fn sessions(&self) -> Vec<String> {
        let whole = |first: &str| {
            // How many parts there are stands before the first.
            let (count, first) = first.split_once('.')?;
            let count: usize = count.parse().ok().filter(|count| (1..=PARTS).contains(count))?;
            let mut text = first.to_owned();
            for index in 1..count {
                text.push_str(self.values(&self.part(index)).next()?);
            }
            Some(text)
        };
        self.values(&self.base).take(PARTS).filter_map(whole).collect()
    }

    /// How many cookies the session takes, for [`Jar::set_session`]: up to the last, even where one before it is missing.
    pub(crate) fn session_parts(&self) -> usize {
        let last = (0..PARTS).rev().find(|index| self.values(&self.part(*index)).next().is_some());
        last.map_or(0, |last| last + 1)
    }

    /// Sets the session in place of one of `before` parts. None: it is too long.
    pub(crate) fn set_session(&self, sealed: &str, before: usize, seconds: u64) -> Option<Vec<Told>> {
        let count = sealed.len().div_ceil(PART);
        if count > PARTS {
            return None;
        }
        let mut told = Vec::new();
        let mut rest = sealed;
        for index in 0..count {
            let (part, after) = rest.split_at_checked(PART).unwrap_or((rest, ""));
            let value = if index == 0 { format!("{count}.{part}") } else { part.to_owned() };
            told.push(self.set(&self.part(index), &value, seconds));
            rest = after;
        }
        told.extend((count..before).map(|index| self.remove(&self.part(index))));
        Some(told)
    }

    pub(crate) fn login_name(&self, state: &str) -> String {
        format!("{}.login.{}", self.base, state.chars().take(ID).collect::<String>())
    }

    pub(crate) fn login(&self, name: &str) -> Option<&str> {
        self.values(name).next()
    }

    /// Names and values of sign-ins under way.
    pub(crate) fn logins(&self) -> Vec<(&str, &str)> {
        let start = format!("{}.login.", self.base);
        let all = self.cookies.iter().filter(|(name, _)| name.starts_with(&start));
        all.map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    pub(crate) fn set_login(&self, name: &str, sealed: &str, seconds: u64) -> Told {
        self.set(name, sealed, seconds)
    }

    pub(crate) fn remove_login(&self, name: &str) -> Told {
        self.remove(name)
    }

    fn tries_name(&self) -> String {
        format!("{}.tries", self.base)
    }

    /// How many sign-ins of late came to an end without a session after that.
    pub(crate) fn tries(&self) -> u32 {
        let name = self.tries_name();
        self.values(&name).next().and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn set_tries(&self, tries: u32, seconds: u64) -> Told {
        self.set(&self.tries_name(), &tries.to_string(), seconds)
    }

    /// Removes whatever the request brought.
    pub(crate) fn clear(&self) -> Vec<Told> {
        let mut names: Vec<&str> = self.cookies.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        // The session comes last: curl with one file to read and write (7.88) forgets but the last of several.
        names.into_iter().rev().map(|name| self.remove(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_plugin::testing::Exchange;

    fn names() -> Names {
        Names::new("oidc", "0123456789abcdef")
    }

    /// What a browser sends that was told these.
    fn sent(told: &[Told]) -> Exchange {
        let pairs = told.iter().filter(|set| !set.contains("Max-Age=0")).filter_map(|set| set.split(';').next());
        Exchange::get("/").header("cookie", pairs.collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn a_long_session_takes_several_cookies_and_a_longer_one_none() {
        let jar = Jar::of(&Exchange::get("/").request(), &names(), true);
        for (length, cookies) in [(1, 1), (3_600, 1), (3_601, 2), (14_400, 4)] {
            let sealed = "s".repeat(length - 1) + "e";
            let told = jar.set_session(&sealed, 0, 60).unwrap();
            assert_eq!(told.len(), cookies);
            assert!(told.iter().all(|set| set.len() < 4_096 && set.starts_with("__Host-oidc-01234567")));
            let back = Jar::of(&sent(&told).request(), &names(), true);
            assert_eq!((back.sessions(), back.session_parts()), (vec![sealed], cookies));
        }
        assert_eq!(jar.set_session(&"s".repeat(14_401), 0, 60), None);
    }

    #[test]
    fn a_shorter_session_removes_the_parts_that_it_does_not_need() {
        let jar = Jar::of(&Exchange::get("/").request(), &names(), true);
        let told = jar.set_session("s", 3, 60).unwrap();
        let removed: Vec<_> = told.iter().filter(|set| set.contains("Max-Age=0")).collect();
        assert_eq!(removed.len(), 2);
        assert!(
            removed[0].starts_with("__Host-oidc-01234567.1=;") && removed[1].starts_with("__Host-oidc-01234567.2=;")
        );
    }

    #[test]
    fn parts_count_up_to_the_last_so_that_none_stays_behind() {
        let exchange = Exchange::get("/").header("cookie", "oidc-01234567=3.a; oidc-01234567.2=c");
        let jar = Jar::of(&exchange.request(), &names(), false);
        assert_eq!(jar.session_parts(), 3);
        let told = jar.set_session("s", jar.session_parts(), 60).unwrap();
        assert!(told.iter().any(|set| set.starts_with("oidc-01234567.2=; ") && set.contains("Max-Age=0")), "{told:?}");
    }

    #[test]
    fn parts_that_are_missing_or_numbers_that_are_none_make_no_session() {
        for text in ["2.abc", "0.abc", "5.abc", "x.abc", "abc", ""] {
            let exchange = Exchange::get("/").header("cookie", format!("oidc-01234567={text}"));
            let jar = Jar::of(&exchange.request(), &names(), false);
            assert_eq!(jar.sessions(), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn cookies_are_kept_from_scripts_and_other_sites_and_by_https_from_other_hosts() {
        let secure = Jar::empty(&names(), true).set("a", "b", 60);
        assert_eq!(secure, "a=b; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure");
        assert!(!Jar::empty(&names(), false).set("a", "b", 60).contains("Secure"));
    }

    #[test]
    fn the_backend_sees_no_cookie_of_the_plugin() {
        let all = "__Host-oidc-01234567=1.a; app=1; oidc-01234567.login.x=b; __Host-oidc-ffffffff=other; oidcx=2";
        let exchange = Exchange::get("/").header("cookie", all);
        assert_eq!(names().hide(&exchange.request()).as_deref(), Some(&b"app=1; oidcx=2"[..]));
        assert_eq!(names().hide(&Exchange::get("/").header("cookie", "app=1").request()), None);
    }
}
