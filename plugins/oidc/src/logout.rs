//! Signing out, here and at the provider (OpenID Connect RP-Initiated Logout 1.0).

use crate::Oidc;
use crate::answers::{Notice, escaped, page, redirect};
use crate::cookies::Jar;
use kit::query;
use sluice_plugin::{Decision, Reply, Request};

const SIGNED_OUT: Notice<'_> = Notice {
    status: 200,
    title: "You are signed out",
    text: "The session of this site has ended.",
    link: Some(("/", "Sign in again")),
};

impl Oidc {
    pub(crate) fn logout(&self, request: &Request<'_>, jar: &Jar) -> Decision {
        // Other sites may link here, but not sign anybody out unasked.
        if request.header_str("sec-fetch-site").as_deref() == Some("cross-site") {
            let form = format!(
                "<form method=\"post\" action=\"{}\"><button>Sign out</button></form>\n",
                escaped(&self.config.logout_path)
            );
            return page(200, "Sign out?", &form).into();
        }
        let reply = match self.way_out(request, jar) {
            Some(location) => redirect(303, &location),
            None => SIGNED_OUT.page(),
        };
        jar.clear().into_iter().fold::<Reply, _>(reply, |reply, told| reply.header("set-cookie", told)).into()
    }

    /// The provider, where it is known and signs out; else where the configuration says.
    fn way_out(&self, request: &Request<'_>, jar: &Jar) -> Option<String> {
        let after = match &self.config.post_logout_redirect_uri {
            Some(path) if path.starts_with('/') => Some(format!("{}{path}", self.origin(request)?)),
            url => url.clone(),
        };
        let Some(end) = self.provider().and_then(|provider| provider.end_session) else { return after };
        let session = self.known(jar);
        let hint = session.as_ref().and_then(|session| session.id_token.as_deref());
        let parameters = [
            Some(("client_id", self.config.client_id.as_str())),
            hint.map(|hint| ("id_token_hint", hint)),
            after.as_deref().map(|after| ("post_logout_redirect_uri", after)),
        ];
        Some(end.with(&query::of(parameters.into_iter().flatten())))
    }
}
