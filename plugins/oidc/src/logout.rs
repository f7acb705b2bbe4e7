//! Signing out, here and at the provider (OpenID Connect RP-Initiated Logout 1.0).

use crate::Oidc;
use crate::answers::{Notice, escaped, page, redirect};
use crate::cookies::Jar;
use crate::provider::STORE;
use crate::session::Session;
use kit::{origin, query};
use sluice_plugin::store::Store;
use sluice_plugin::{Decision, Refused, Reply, Request, log};
use std::time::Duration;

/// How long a session that has ended here is known as one: responses that were on their way then bring it no more.
const ENDED: Duration = Duration::from_secs(10 * 60);

const SIGNED_OUT: Notice<'_> = Notice {
    status: 200,
    title: "You are signed out",
    text: "The session of this site has ended.",
    link: Some(("/", "Sign in again")),
};

impl Oidc {
    pub(crate) fn logout(&self, request: &Request<'_>, jar: &Jar) -> Decision {
        if self.is_led_here(request) {
            let form = format!(
                "<form method=\"post\" action=\"{}\"><button>Sign out</button></form>\n",
                escaped(&self.config.logout_path)
            );
            // Without a referrer its form would tell no origin, and be asked again.
            return page(200, "Sign out?", &form, "same-origin").into();
        }
        let session = self.known(jar);
        let reply = match self.way_out(request, session.as_ref()) {
            Some(location) => redirect(303, &location),
            None => SIGNED_OUT.page(),
        };
        if let Some(session) = session
            && let Err(reason) = end(&session)
        {
            log::warn(&format!("a response on its way may bring back a session that has ended: {reason}"));
        }
        jar.clear().into_iter().fold::<Reply, _>(reply, |reply, told| reply.header("set-cookie", told)).into()
    }

    /// Whether something other than the site's own pages and the reader's own doing leads here: other origins may link here, but
    /// not sign anybody out unasked. Browsers that say nothing of that are asked for nothing.
    fn is_led_here(&self, request: &Request<'_>) -> bool {
        if let Some(site) = request.header("sec-fetch-site") {
            return !matches!(site.as_slice(), b"same-origin" | b"none");
        }
        let Some(told) = request.header("origin").or_else(|| request.header("referer")) else { return false };
        let told = String::from_utf8(told).ok().and_then(|told| origin::of(&told));
        let own = [self.origin(request), Some(format!("{}://{}", request.scheme(), request.authority()))];
        let own = own.into_iter().flatten().filter_map(|own| origin::of(&own));
        told.is_none_or(|told| own.into_iter().all(|own| own != told))
    }

    /// The provider, where it is known and signs out; else where the configuration says.
    fn way_out(&self, request: &Request<'_>, session: Option<&Session>) -> Option<String> {
        let after = match &self.config.post_logout_redirect_uri {
            Some(path) if path.starts_with('/') => Some(format!("{}{path}", self.origin(request)?)),
            url => url.clone(),
        };
        let Some(end) = self.provider().and_then(|provider| provider.end_session) else { return after };
        let hint = session.and_then(|session| session.id_token.as_deref());
        let parameters = [
            Some(("client_id", self.config.client_id.as_str())),
            hint.map(|hint| ("id_token_hint", hint)),
            after.as_deref().map(|after| ("post_logout_redirect_uri", after)),
        ];
        Some(end.with(&query::of(parameters.into_iter().flatten())))
    }
}

fn ended(session: &Session) -> String {
    format!("ended/{}", session.id)
}

fn end(session: &Session) -> Result<(), Refused> {
    Store::open(STORE)?.set(&ended(session), b"", Some(ENDED))
}

/// Whether its browser has signed out of a session of late.
pub(crate) fn has_ended(session: &Session) -> bool {
    Store::open(STORE).and_then(|store| store.get(&ended(session))).is_ok_and(|mark| mark.is_some())
}
