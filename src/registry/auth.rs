//! Who may see which secret? Challenges of registries and the tokens that they are answered with
//! (distribution: "Token Authentication").
//!
//! Invariant (design D10): a password or refresh token goes to the registry that it belongs to, and
//! to the realm which that registry named over TLS and which itself speaks TLS. Over a connection
//! that could be forged (an insecure host) it goes to the very same host only. One fetch serves all
//! threads that need the same token.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::challenge::Challenge;
use super::credentials::Login;
use super::error::RegistryError;
use super::origin::{may_point_at, origin_text, same_origin};
use super::retry::{Failure, Retry, retry_after};
use super::transport::{Call, Exchange, Host};
use super::words::refused;

const TOKEN_LIMIT: u64 = 1 << 20;
/// How long a token lives that does not say (the specification's default).
const TOKEN_LIFETIME: u64 = 60;

/// What is known about getting into one registry.
#[derive(Default)]
pub(super) struct AuthState {
    challenge: Mutex<Option<Challenge>>,
    /// By scopes. Locked while one is fetched.
    tokens: tokio::sync::Mutex<HashMap<String, Token>>,
    /// By repository. Locked while a helper is asked.
    logins: tokio::sync::Mutex<HashMap<String, Option<Login>>>,
}

struct Token {
    header: HeaderValue,
    expires: Instant,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl Exchange {
    /// The `Authorization` for `call`, as far as is known what the registry wants.
    pub(super) async fn authorization(
        &self,
        host: &Host,
        base: &Url,
        call: &Call<'_>,
    ) -> Result<Option<HeaderValue>, Failure> {
        let challenge = host
            .auth
            .challenge
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match challenge {
            None => Ok(None),
            Some(Challenge::Basic) => match self.login(host, call.repository).await? {
                Some(Login::Password { user, password }) => Ok(Some(basic(&user, &password))),
                Some(Login::Bearer(token)) => bearer(&token, call.doing).map(Some),
                _ => Ok(None),
            },
            Some(Challenge::Bearer { realm, service, .. }) => {
                let key = call.scopes.join(" ");
                let mut tokens = host.auth.tokens.lock().await;
                if let Some(token) = tokens.get(&key).filter(|token| token.expires > Instant::now()) {
                    return Ok(Some(token.header.clone()));
                }
                let token = self
                    .fetch_token(host, base, call, &realm, service.as_deref(), &call.scopes)
                    .await?;
                let header = token.header.clone();
                tokens.insert(key, token);
                Ok(Some(header))
            }
        }
    }

    /// Learns from a 401: afterwards [`Self::authorization`] gives what the registry asked for.
    pub(super) async fn answer(
        &self,
        host: &Host,
        base: &Url,
        call: &Call<'_>,
        challenge: Option<Challenge>,
    ) -> Result<(), Failure> {
        let Some(challenge) = challenge else { return Ok(()) };
        *host.auth.challenge.lock().unwrap_or_else(PoisonError::into_inner) = Some(challenge.clone());
        if let Challenge::Bearer {
            realm,
            service,
            scope,
        } = challenge
        {
            // A registry may know the repository by another name than its clients do.
            let mut scopes = call.scopes.clone();
            scopes.extend(scope.iter().flat_map(|s| s.split(' ')).map(str::to_owned));
            scopes.sort();
            scopes.dedup();
            let mut tokens = host.auth.tokens.lock().await;
            let token = self
                .fetch_token(host, base, call, &realm, service.as_deref(), &scopes)
                .await?;
            tokens.insert(call.scopes.join(" "), token);
        }
        Ok(())
    }

    /// What to do when access is denied.
    pub(super) async fn login_remedy(&self, host: &Host, repository: &str) -> String {
        let files = self.session.credentials.describe();
        match self.login(host, repository).await {
            Ok(None) => format!(
                "there are no credentials for {name}: log in with \"rbuild login {name}\", \"docker login {name}\" or \"podman login {name}\" (looked in {files})",
                name = host.name
            ),
            _ => format!(
                "the credentials for {} do not allow it (looked in {files})",
                host.name
            ),
        }
    }

    async fn login(&self, host: &Host, repository: &str) -> Result<Option<Login>, RegistryError> {
        let mut logins = host.auth.logins.lock().await;
        if let Some(login) = logins.get(repository) {
            return Ok(login.clone());
        }
        let (files, name, path) = (
            self.session.credentials.clone(),
            host.name.clone(),
            repository.to_owned(),
        );
        // A helper may take its time; transfers go on.
        let found = tokio::task::spawn_blocking(move || files.login(&name, &path)).await;
        let login = found.map_err(|e| RegistryError::Start(e.to_string()))??;
        logins.insert(repository.to_owned(), login.clone());
        Ok(login)
    }

    async fn fetch_token(
        &self,
        host: &Host,
        base: &Url,
        call: &Call<'_>,
        realm: &str,
        service: Option<&str>,
        scopes: &[String],
    ) -> Result<Token, Failure> {
        let login = self.login(host, call.repository).await?;
        if let Some(Login::Bearer(token)) = &login {
            let expires = Instant::now() + Duration::from_secs(TOKEN_LIFETIME);
            return Ok(Token {
                header: bearer(token, call.doing)?,
                expires,
            });
        }
        let (mut url, trusted) =
            check_realm(host, base, realm).map_err(|reason| refused(call.doing, reason))?;
        let login = login.filter(|_| trusted);
        let address = origin_text(&url);
        let client = self.client_for(host, &url)?;
        let request = if let Some(Login::Identity(secret)) = &login {
            let scope = scopes.join(" ");
            let mut form = vec![
                ("grant_type", "refresh_token"),
                ("client_id", "rbuild"),
                ("refresh_token", secret),
            ];
            form.push(("scope", &scope));
            form.extend(service.map(|service| ("service", service)));
            // An address' query and a form are encoded alike.
            let encoded = Url::parse_with_params("http://form/", form)
                .map_err(|e| refused(call.doing, e.to_string()))?;
            let body = encoded.query().unwrap_or_default().to_owned();
            client
                .post(url)
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(body)
        } else {
            {
                let mut query = url.query_pairs_mut();
                query.extend_pairs(service.map(|service| ("service", service)));
                query.extend_pairs(scopes.iter().map(|scope| ("scope", scope)));
            }
            let request = client.get(url);
            match &login {
                Some(Login::Password { user, password }) => {
                    request.header(reqwest::header::AUTHORIZATION, basic(user, password))
                }
                _ => request,
            }
        };
        let mut backoff = self.backoff();
        loop {
            let again = request.try_clone();
            let again =
                again.ok_or_else(|| refused(call.doing, "a token can be asked for once".to_owned()))?;
            match self.ask_for_token(host, call, again, &address).await {
                Ok(token) => return Ok(token),
                Err(failure) => tokio::time::sleep(backoff.pause(failure)?).await,
            }
        }
    }

    async fn ask_for_token(
        &self,
        host: &Host,
        call: &Call<'_>,
        request: reqwest::RequestBuilder,
        address: &str,
    ) -> Result<Token, Failure> {
        let doing = format!("{}: getting a token", call.doing);
        let (asked, address) = (Instant::now(), address.to_owned());
        let response = self.in_time(&doing, &address, request.send()).await?;
        let status = response.status();
        if !status.is_success() {
            let denied = matches!(
                status,
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST
            );
            let retry = if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
                Retry::After(retry_after(response.headers()))
            } else {
                Retry::No
            };
            let error = if denied {
                let remedy = self.login_remedy(host, call.repository).await;
                RegistryError::Denied {
                    doing,
                    host: address,
                    detail: String::new(),
                    remedy,
                }
            } else {
                RegistryError::Status {
                    doing,
                    host: address,
                    status: status.as_u16(),
                    detail: String::new(),
                }
            };
            return Err(Failure::new(error, retry));
        }
        let body = self.read_limited(response, TOKEN_LIMIT, &doing).await?;
        let answer: Option<TokenAnswer> = serde_json::from_slice(&body).ok();
        let lifetime = answer
            .as_ref()
            .and_then(|answer| answer.expires_in)
            .unwrap_or(TOKEN_LIFETIME)
            .clamp(1, 86_400);
        let token = answer.and_then(|answer| answer.token.filter(|t| !t.is_empty()).or(answer.access_token));
        let Some(token) = token else {
            return Err(refused(&doing, format!("{address} sent no token")).into());
        };
        // A little early: a request takes time to arrive.
        let expires = asked + Duration::from_secs(lifetime) * 7 / 10;
        Ok(Token {
            header: bearer(&token, &doing)?,
            expires,
        })
    }
}

/// The realm's address, and whether a password may go there.
fn check_realm(host: &Host, base: &Url, realm: &str) -> Result<(Url, bool), String> {
    let mut url =
        Url::parse(realm).map_err(|e| format!("{} names the token server {realm:?}: {e}", host.address))?;
    let _ = url.set_username("");
    let _ = url.set_password(None);
    may_point_at(host, base, &url)?;
    let same_host = url.host_str() == base.host_str();
    let both_local = [base, &url]
        .iter()
        .all(|u| u.host_str().is_some_and(super::origin::is_local));
    match url.scheme() {
        "https" => {
            // What an unverified registry says may have been said by anybody.
            let trusted = same_host || both_local || (base.scheme() == "https" && !host.insecure);
            Ok((url, trusted))
        }
        _ if same_host || both_local || same_origin(&url, base) => Ok((url, true)),
        _ => Err(format!(
            "{} names a token server without TLS, {}, which is refused",
            host.address,
            origin_text(&url)
        )),
    }
}

fn basic(user: &str, password: &str) -> HeaderValue {
    let text = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    // base64 is always a valid header.
    let mut value = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

fn bearer(token: &str, doing: &str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
        refused(
            doing,
            "the token has characters that a header cannot have".to_owned(),
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::super::client::RegistryOptions;
    use super::super::credentials::CredentialFiles;
    use super::super::transport::Session;
    use super::*;

    #[test]
    fn passwords_go_to_trusted_realms_only() {
        let options = RegistryOptions {
            insecure: vec!["plain.lan:5000".to_owned()],
            ..RegistryOptions::default()
        };
        let session = Session::new(options, CredentialFiles::default());
        for (host, base, realm, expected) in [
            (
                "r.example",
                "https://r.example/",
                "https://auth.example/t",
                Some(true),
            ),
            ("r.example", "https://r.example/", "http://auth.example/t", None),
            ("r.example", "https://r.example/", "http://r.example/t", None),
            (
                "r.example",
                "https://r.example/",
                "https://169.254.169.254/t",
                None,
            ),
            ("r.example", "https://r.example/", "https://localhost/t", None),
            ("r.example", "https://r.example/", "not an address", None),
            (
                "plain.lan:5000",
                "http://plain.lan:5000/",
                "https://auth.example/t",
                Some(false),
            ),
            (
                "plain.lan:5000",
                "https://plain.lan:5000/",
                "https://auth.example/t",
                Some(false),
            ),
            (
                "plain.lan:5000",
                "http://plain.lan:5000/",
                "http://plain.lan:5001/t",
                Some(true),
            ),
            (
                "plain.lan:5000",
                "http://plain.lan:5000/",
                "http://auth.example/t",
                None,
            ),
            (
                "localhost:5000",
                "http://localhost:5000/",
                "http://127.0.0.1:5001/t",
                Some(true),
            ),
        ] {
            let checked = check_realm(&session.host(host), &Url::parse(base).unwrap(), realm);
            assert_eq!(
                checked.as_ref().ok().map(|(_, trusted)| *trusted),
                expected,
                "{host} {realm}: {checked:?}"
            );
        }
    }
}
