//! Sets the response headers that tell browsers to be careful, and removes those that tell what runs behind.

use kit::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_plugin::{Decision, OnResponse, Plugin, Request, Response, log};

/// Which headers responses get. `null` leaves one out.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// `Strict-Transport-Security` (RFC 6797), on answers to HTTPS requests only.
    pub strict_transport_security: Option<Hsts>,
    /// `X-Content-Type-Options: nosniff`.
    pub content_type_options: bool,
    /// `X-Frame-Options`.
    pub frame_options: Option<FrameOptions>,
    /// `Referrer-Policy`.
    pub referrer_policy: Option<ReferrerPolicy>,
    /// `Content-Security-Policy`, as it is to be sent: `default-src 'self'`.
    #[schemars(length(max = 8192))]
    pub content_security_policy: Option<String>,
    /// `Content-Security-Policy-Report-Only`: browsers tell what it would forbid.
    #[schemars(length(max = 8192))]
    pub content_security_policy_report_only: Option<String>,
    /// `Permissions-Policy`: `camera=(), geolocation=()`.
    #[schemars(length(max = 8192))]
    pub permissions_policy: Option<String>,
    /// `Cross-Origin-Opener-Policy`.
    pub cross_origin_opener_policy: Option<OpenerPolicy>,
    /// `Cross-Origin-Embedder-Policy`.
    pub cross_origin_embedder_policy: Option<EmbedderPolicy>,
    /// `Cross-Origin-Resource-Policy`.
    pub cross_origin_resource_policy: Option<ResourcePolicy>,
    /// Headers that are taken out of responses.
    pub remove: Vec<HeaderName>,
    /// Whether a header that the backend has set itself is replaced.
    pub overwrite: bool,
}

/// For how long browsers ask by HTTPS only.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Hsts {
    /// Seconds. 0 takes it back.
    pub max_age: u32,
    /// Whether it holds for all hosts below this one.
    pub include_sub_domains: bool,
    /// Whether browsers may have it built in: <https://hstspreload.org>.
    pub preload: bool,
}

impl Default for Hsts {
    fn default() -> Hsts {
        Hsts { max_age: YEAR, include_sub_domains: false, preload: false }
    }
}

/// Seconds.
const YEAR: u32 = 365 * 24 * 60 * 60;

/// An enum of texts that are header values as they stand.
macro_rules! values {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
        pub enum $name {
            $(#[serde(rename = $text)] $variant,)+
        }

        impl $name {
            fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)+
                }
            }
        }
    };
}

values!(FrameOptions { Deny = "DENY", SameOrigin = "SAMEORIGIN" });
values!(ReferrerPolicy {
    NoReferrer = "no-referrer",
    NoReferrerWhenDowngrade = "no-referrer-when-downgrade",
    Origin = "origin",
    OriginWhenCrossOrigin = "origin-when-cross-origin",
    SameOrigin = "same-origin",
    StrictOrigin = "strict-origin",
    StrictOriginWhenCrossOrigin = "strict-origin-when-cross-origin",
    UnsafeUrl = "unsafe-url",
});
values!(OpenerPolicy {
    UnsafeNone = "unsafe-none",
    SameOrigin = "same-origin",
    SameOriginAllowPopups = "same-origin-allow-popups",
    NoopenerAllowPopups = "noopener-allow-popups",
});
values!(EmbedderPolicy { UnsafeNone = "unsafe-none", RequireCorp = "require-corp", Credentialless = "credentialless" });
values!(ResourcePolicy { SameSite = "same-site", SameOrigin = "same-origin", CrossOrigin = "cross-origin" });

impl Default for Config {
    fn default() -> Config {
        Config {
            strict_transport_security: Some(Hsts::default()),
            content_type_options: true,
            frame_options: Some(FrameOptions::SameOrigin),
            referrer_policy: Some(ReferrerPolicy::StrictOriginWhenCrossOrigin),
            content_security_policy: None,
            content_security_policy_report_only: None,
            permissions_policy: None,
            cross_origin_opener_policy: None,
            cross_origin_embedder_policy: None,
            cross_origin_resource_policy: None,
            remove: ["server", "x-powered-by"].into_iter().filter_map(HeaderName::new).collect(),
            overwrite: false,
        }
    }
}

pub struct SecurityHeaders {
    /// Of answers to any request.
    always: Vec<(&'static str, String)>,
    hsts: Option<String>,
    remove: Vec<HeaderName>,
    overwrite: bool,
}

const HSTS: &str = "strict-transport-security";

impl Plugin for SecurityHeaders {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        let hsts = config.strict_transport_security.map(|hsts| of_hsts(&hsts)).transpose()?;
        let texts = [
            ("contentSecurityPolicy", "content-security-policy", config.content_security_policy),
            (
                "contentSecurityPolicyReportOnly",
                "content-security-policy-report-only",
                config.content_security_policy_report_only,
            ),
            ("permissionsPolicy", "permissions-policy", config.permissions_policy),
        ];
        let mut always = Vec::new();
        for (field, name, text) in texts {
            let Some(text) = text else { continue };
            // People write long ones over several lines.
            let text =
                text.split(['\r', '\n']).map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
            if text.is_empty() || !kit::is_header_value(&text) {
                return Err(format!("{field}: it is empty, or holds control characters: it can't be a header's value"));
            }
            always.push((name, text));
        }
        let words = [
            ("x-content-type-options", config.content_type_options.then_some("nosniff")),
            ("x-frame-options", config.frame_options.map(FrameOptions::as_str)),
            ("referrer-policy", config.referrer_policy.map(ReferrerPolicy::as_str)),
            ("cross-origin-opener-policy", config.cross_origin_opener_policy.map(OpenerPolicy::as_str)),
            ("cross-origin-embedder-policy", config.cross_origin_embedder_policy.map(EmbedderPolicy::as_str)),
            ("cross-origin-resource-policy", config.cross_origin_resource_policy.map(ResourcePolicy::as_str)),
        ];
        always.extend(words.into_iter().filter_map(|(name, word)| Some((name, word?.to_owned()))));
        if always.is_empty() && hsts.is_none() && config.remove.is_empty() {
            return Err("every header is left out: nothing would be set or removed".to_owned());
        }
        Ok(SecurityHeaders { always, hsts, remove: config.remove, overwrite: config.overwrite })
    }
}

fn of_hsts(hsts: &Hsts) -> Result<String, String> {
    if hsts.preload && (!hsts.include_sub_domains || hsts.max_age < YEAR) {
        return Err(format!(
            "strictTransportSecurity.preload: browsers take it only with includeSubDomains and a maxAge of at least {YEAR}"
        ));
    }
    let sub_domains = if hsts.include_sub_domains { "; includeSubDomains" } else { "" };
    let preload = if hsts.preload { "; preload" } else { "" };
    Ok(format!("max-age={}{sub_domains}{preload}", hsts.max_age))
}

impl SecurityHeaders {
    fn set(&self, response: &mut Response<'_>, name: &str, value: &str) {
        if !self.overwrite && response.header(name).is_some() {
            return;
        }
        if let Err(reason) = response.set_header(name, value) {
            log::warn(&format!("`{name}` was left out: {reason}"));
        }
    }
}

impl OnResponse for SecurityHeaders {
    fn on_response(&self, request: &Request<'_>, response: &mut Response<'_>) -> Decision {
        for name in &self.remove {
            if let Err(reason) = response.remove_header(name) {
                log::warn(&format!("`{}` stays: {reason}", &**name));
            }
        }
        for (name, value) in &self.always {
            self.set(response, name, value);
        }
        // RFC 6797, section 7.2: not in clear text.
        if let Some(value) = &self.hsts
            && request.scheme() == "https"
        {
            self.set(response, HSTS, value);
        }
        Decision::Continue
    }
}

sluice_plugin::export!(SecurityHeaders: response);

#[cfg(test)]
mod tests;
