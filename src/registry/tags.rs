//! Which tags does a repository have? (distribution-spec, "Listing Tags")

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{HeaderMap, LINK};
use serde::Deserialize;

use super::client::{Registry, again, pull_scope};
use super::error::RegistryError;
use super::reference::Reference;
use super::retry::Failure;
use super::transport::{Call, Exchange};
use super::words::refused;

/// Tags asked for at once.
const PAGE: usize = 1000;
/// No repository has more pages than that.
const PAGES: usize = 1000;
const ANSWER_LIMIT: u64 = 4 << 20;

#[derive(Deserialize)]
struct Answer {
    /// Registries write `null` for none.
    tags: Option<Vec<String>>,
}

impl Registry {
    /// The tags of the repository of `reference`, as the registry sorts them.
    pub fn tags(&self, reference: &Reference) -> Result<Vec<String>, RegistryError> {
        let doing = format!("listing the tags of {}", reference.name());
        let mut tags: Vec<String> = Vec::new();
        for _ in 0..PAGES {
            let (page, more) = self.tags_after(reference, tags.last(), &doing)?;
            // What cannot be a tag would change the address of the next page.
            if let Some(bad) = page.iter().find(|tag| reference.with_tag(tag).is_err()) {
                let bad: String = bad.chars().take(100).collect();
                return Err(refused(&doing, format!("it names the tag {bad:?}")));
            }
            let ended = page.is_empty() || page.last() == tags.last();
            tags.extend(page);
            if ended || !more {
                return Ok(tags);
            }
        }
        Err(refused(&doing, "its list of tags does not end".to_owned()))
    }

    /// A page of them, and whether there is another.
    fn tags_after(
        &self,
        reference: &Reference,
        last: Option<&String>,
        doing: &str,
    ) -> Result<(Vec<String>, bool), RegistryError> {
        let last = last.map(|last| format!("&last={last}")).unwrap_or_default();
        let target = format!("/v2/{}/tags/list?n={PAGE}{last}", reference.repository());
        let (reference, doing) = (reference.clone(), doing.to_owned());
        let attempt = async move |exchange: Exchange| -> Result<(Vec<String>, bool), Failure> {
            let call = Call {
                doing: &doing,
                method: Method::GET,
                target: &target,
                repository: reference.repository(),
                scopes: vec![pull_scope(reference.repository())],
                headers: HeaderMap::new(),
                body: Bytes::new(),
            };
            let host = exchange.session.host(reference.domain());
            let response = exchange.call(&host, &call).await?;
            let more = response.headers().contains_key(LINK);
            let bytes = exchange.read_limited(response, ANSWER_LIMIT, &doing).await?;
            let answer: Answer = serde_json::from_slice(&bytes)
                .map_err(|error| refused(&doing, format!("its answer cannot be parsed: {error}")))?;
            Ok((answer.tags.unwrap_or_default(), more))
        };
        self.run(move |exchange| again(exchange, attempt))
    }
}
