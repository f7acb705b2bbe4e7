//! An issuer of tokens, and an OpenID provider: whoever comes is ann, and signed in already.
//!
//! What a code stands for is in the code itself.

use super::tokens;
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rcgen::{KeyPair, PKCS_ED25519, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sluice_tests::backend::{Answer, Handler, text};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

const ISSUER: &str = "https://idp.example/";

/// The client and its secret, as the page of `oidc` has them.
const CLIENT: &str = "shop:what-the-provider-gave-you";

pub(super) fn handler() -> Handler {
    let key = Arc::new(KeyPair::generate_for(&PKCS_ED25519).unwrap());
    Arc::new(move |request| Box::pin(answer(key.clone(), request)))
}

fn encode(text: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(text)
}

async fn answer(key: Arc<KeyPair>, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    match head.uri.path() {
        "/.well-known/jwks.json" => {
            let mut keys = tokens()["keys"].as_array().unwrap().clone();
            keys.push(json!({ "kty": "OKP", "crv": "Ed25519", "kid": "provider", "x": encode(key.public_key_raw()) }));
            text(StatusCode::OK, &json!({ "keys": keys }).to_string())
        }
        "/.well-known/openid-configuration" => {
            let metadata = json!({
                "issuer": ISSUER,
                "authorization_endpoint": format!("{ISSUER}authorize"),
                "token_endpoint": format!("{ISSUER}token"),
                "jwks_uri": format!("{ISSUER}.well-known/jwks.json"),
                "end_session_endpoint": format!("{ISSUER}logout"),
            });
            text(StatusCode::OK, &metadata.to_string())
        }
        "/authorize" => authorize(head.uri.query().unwrap_or_default()),
        "/token" => {
            let form = body.collect().await.unwrap().to_bytes();
            let client = format!("Basic {}", BASE64_STANDARD.encode(CLIENT));
            if head.headers.get(header::AUTHORIZATION).is_none_or(|value| *value != *client) {
                return text(StatusCode::UNAUTHORIZED, r#"{"error":"invalid_client"}"#);
            }
            issue(&key, std::str::from_utf8(&form).unwrap())
        }
        _ => text(StatusCode::NOT_FOUND, ""),
    }
}

/// Sends the browser back with a code.
fn authorize(query: &str) -> Answer {
    let asked = |name| parameter(query, name);
    let code = json!({ "nonce": asked("nonce"), "challenge": asked("code_challenge") });
    let location = format!("{}?code={}&state={}", asked("redirect_uri"), encode(code.to_string()), asked("state"));
    let mut answer = text(StatusCode::FOUND, "");
    answer.headers_mut().insert(header::LOCATION, HeaderValue::from_str(&location).unwrap());
    answer
}

/// Tokens for a code, to whoever knows the verifier of its challenge.
fn issue(key: &KeyPair, form: &str) -> Answer {
    let code = BASE64_URL_SAFE_NO_PAD.decode(parameter(form, "code")).unwrap_or_default();
    let code: Value = serde_json::from_slice(&code).unwrap_or_default();
    if code["challenge"] != encode(Sha256::digest(parameter(form, "code_verifier"))) {
        return text(StatusCode::BAD_REQUEST, r#"{"error":"invalid_grant"}"#);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "iss": ISSUER, "sub": "ann", "aud": "shop", "iat": now, "exp": now + 300,
        "nonce": code["nonce"], "email": "ann@shop.example",
    });
    let header = json!({ "alg": "EdDSA", "kid": "provider" });
    let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
    let token = format!("{signed}.{}", encode(key.sign(signed.as_bytes()).unwrap()));
    let tokens = json!({ "id_token": token, "access_token": "opaque", "token_type": "Bearer", "expires_in": 300 });
    text(StatusCode::OK, &tokens.to_string())
}

/// A parameter of a query or a form, percent-decoded.
fn parameter(pairs: &str, name: &str) -> String {
    let found = pairs.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
    let mut parts = found.map_or("", |(_, value)| value).split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(digits, 16).unwrap());
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).unwrap()
}
