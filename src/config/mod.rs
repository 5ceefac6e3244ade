//! The configuration: layers in, typed and checked settings out.
//!
//! Three layers, the higher one winning key by key: the manual `config/default.toml`, which is embedded and holds
//! every key; a TOML file; the environment (`RELEVO_HTTP__LISTEN` is `http.listen`). What this room guarantees:
//! an unknown key or variable is an error, never ignored; all errors are reported together, each with its place;
//! what it hands out has been checked, also against the other settings; no secret appears in a message.
//!
//! The environment is a parameter. Nothing else in the program reads it.

mod auth;
mod document;
mod error;
mod layers;
mod legacy;
mod settings;
mod validation;
mod value;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use crate::{bulk, http, inbound, instance, media, queue, relay, retry, telemetry, webhook};
use relevo_domain::{CloudApiSettings, InstanceConfig, InstanceId, ProviderKind, Secret};
use relevo_egress as egress;
use relevo_provider::LinkedOptions;
use relevo_store as store;

pub use auth::{Auth, Error as ApiKeyError, ResolvedKey, resolve_api_key};
pub use error::{ConfigErrors, ConfigProblem, ValueSource};

use layers::Layers;
use legacy::LegacyAccount;

/// Names the configuration file when no command line does.
const FILE_VARIABLE: &str = "RELEVO_CONFIG";

/// Admits the variables of the documented systems.
const LEGACY_VARIABLE: &str = "RELEVO_LEGACY_ENV";

/// Everything that the node is told before it starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// As given: a relative path begins at the working directory.
    pub data_dir: PathBuf,
    pub auth: Auth,
    /// Its `api_key` is `None` until [`resolve_api_key`] has been asked.
    pub http: http::Options,
    pub egress: egress::Options,
    pub store: store::Options,
    pub queue: queue::Options,
    pub retry: retry::Options,
    pub inbound: inbound::Options,
    pub instance: instance::Options,
    pub bulk: bulk::Options,
    pub webhook: webhook::Options,
    pub media: media::Options,
    pub relay: relay::Options,
    pub linked: LinkedOptions,
    pub cloud_api: CloudApiDefaults,
    pub log: telemetry::Options,
    /// How long work in hand may go on after a signal to stop.
    pub shutdown_drain: Duration,
    pub sandbox_listen: SocketAddr,
    /// An instance that exists from the start, from the legacy variables.
    pub bootstrap_instance: Option<InstanceConfig>,
    /// What is permitted and probably not meant. For the log, once.
    pub warnings: Vec<String>,
    rows: Vec<EffectiveSetting>,
}

/// What an instance on the Cloud API uses where its own configuration says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudApiDefaults {
    pub base_url: Url,
    /// `v25.0` and the like.
    pub api_version: String,
    /// The word that Meta repeats when it verifies the webhook.
    pub verify_token: Option<Secret>,
    /// Signs Meta's webhooks.
    pub app_secret: Option<Secret>,
}

/// One setting as `check-config` shows it.
#[derive(Debug, Clone)]
struct EffectiveSetting {
    key: String,
    value: String,
    source: ValueSource,
}

impl Settings {
    /// Every key with the value in force and where it comes from, one a line, secrets masked.
    pub fn effective(&self) -> impl fmt::Display + '_ {
        EffectiveSettings(self)
    }
}

struct EffectiveSettings<'a>(&'a Settings);

impl fmt::Display for EffectiveSettings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = || self.0.rows.iter();
        let keys = rows().map(|row| row.key.len()).max().unwrap_or(0);
        let values = rows().map(|row| row.value.chars().count()).max().unwrap_or(0).min(40);
        for EffectiveSetting { key, value, source } in rows() {
            writeln!(f, "{key:keys$} = {value:values$}  # {source}")?;
        }
        if let Some(account) =
            self.0.bootstrap_instance.as_ref().and_then(|instance| instance.cloud_api.as_ref())
        {
            let (name, number) = (legacy::INSTANCE_ID, &account.phone_number_id);
            writeln!(
                f,
                "\n# Instance {name:?} on the Cloud API, from PHONE_NUMBER_ID ({number}) and ACCESS_TOKEN"
            )?;
        }
        Ok(())
    }
}

/// The process environment, for [`load`].
pub fn environment() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os()
}

/// Lays `file` (or the one that `RELEVO_CONFIG` names) over the manual, and `env` over both.
///
/// `legacy` admits the variables of the documented systems, as `RELEVO_LEGACY_ENV=1` does. Variables that do not
/// begin with `RELEVO_` are otherwise ignored.
pub fn load<K: Into<OsString>, V: Into<OsString>>(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (K, V)>,
    legacy: bool,
) -> Result<Settings, ConfigErrors> {
    let env = env.into_iter().map(|(name, text)| (name.into(), text.into())).collect();
    assemble(file, env, legacy)
}

fn assemble(
    file: Option<&Path>,
    env: Vec<(OsString, OsString)>,
    legacy: bool,
) -> Result<Settings, ConfigErrors> {
    let mut layers = Layers::from_defaults();
    let variables = utf8_variables(env, &mut layers);
    let named = variables.get(FILE_VARIABLE).filter(|path| !path.is_empty()).map(Path::new);
    if let Some(path) = file.or(named) {
        layers.add_file(path);
    }
    let mut warnings = Vec::new();
    let legacy = legacy || legacy_enabled(&variables, &mut layers);
    let account = legacy.then(|| legacy::apply(&mut layers, &variables)).flatten();
    layers.add_environment(&variables, &[FILE_VARIABLE, LEGACY_VARIABLE]);

    let settings = settings::read(&mut layers);
    let Some(mut settings) = settings.filter(|_| layers.problems.is_empty()) else {
        return Err(ConfigErrors { problems: layers.problems });
    };
    validation::add_warnings(&layers, &settings, &mut warnings);
    settings.warnings = warnings;
    settings.rows = layers
        .rows()
        .map(|(key, value, source)| EffectiveSetting { key: key.to_owned(), value, source: source.clone() })
        .collect();
    if let Some(account) = account {
        bootstrap(&mut settings, account);
    }
    Ok(settings)
}

/// The variables that are text. One of ours that is not is a problem; one of somebody else's is none of ours.
fn utf8_variables(env: Vec<(OsString, OsString)>, layers: &mut Layers) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for (name, text) in env {
        match (name.into_string(), text.into_string()) {
            (Ok(name), Ok(text)) => {
                variables.insert(name, text);
            }
            (Ok(name), Err(_)) if name.starts_with(layers::PREFIX) => {
                layers.add_problem(Some(ValueSource::Variable(name)), "its value is not UTF-8".to_owned());
            }
            _ => {}
        }
    }
    variables
}

fn legacy_enabled(variables: &BTreeMap<String, String>, layers: &mut Layers) -> bool {
    match variables.get(LEGACY_VARIABLE).map(|text| text.trim()) {
        Some("1" | "true") => true,
        None | Some("" | "0" | "false") => false,
        Some(other) => {
            let source = ValueSource::Variable(LEGACY_VARIABLE.to_owned());
            layers.add_problem(Some(source), format!("is {other:?}; expected 1 or 0"));
            false
        }
    }
}

fn bootstrap(settings: &mut Settings, account: LegacyAccount) {
    let Ok(id) = legacy::INSTANCE_ID.parse::<InstanceId>() else { return };
    let CloudApiDefaults { base_url, api_version, verify_token, app_secret } = settings.cloud_api.clone();
    settings.bootstrap_instance = Some(InstanceConfig {
        id,
        name: None,
        provider: ProviderKind::CloudApi,
        cloud_api: Some(CloudApiSettings {
            phone_number_id: account.phone_number_id,
            access_token: account.access_token,
            app_secret,
            verify_token,
            base_url,
            api_version,
        }),
        linked_device: None,
        webhook_url: None,
        rate_limit: None,
        workers: None,
        sync_history: false,
        on_ambiguous: None,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_key_is_read_as_a_setting() {
        let mut layers = Layers::from_defaults();
        assert!(settings::read(&mut layers).is_some());
        assert_eq!(layers.problems, []);
        assert_eq!(layers.unread_keys(), Vec::<&str>::new());
    }
}
