//! The configuration: merges the layers and returns typed, validated settings.
//!
//! There are three layers, and the higher one wins for each key: the embedded defaults `config/default.toml`, which
//! hold every key; a TOML file; the environment (`RELEVO_HTTP__LISTEN` is `http.listen`). The module guarantees:
//! an unknown key or variable is an error and never ignored; all errors are reported together, each with its place;
//! the returned settings are valid, also in combination; no message contains a secret.
//!
//! The environment is a parameter of [`load`]. No other module reads it.

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
use relevo_domain::{CloudApiSettings, InstanceConfig, InstanceId, ProviderConfig, Secret};
use relevo_egress as egress;
use relevo_provider::LinkedOptions;
use relevo_store as store;

pub use auth::{Auth, Error as ApiKeyError, ResolvedKey, resolve_api_key};
pub use error::{ConfigErrors, ConfigProblem, ValueSource};

use layers::Layers;
use legacy::LegacyAccount;

/// Names the configuration file if the command line does not.
const FILE_VARIABLE: &str = "RELEVO_CONFIG";

/// Enables the variables of the documented systems.
const LEGACY_VARIABLE: &str = "RELEVO_LEGACY_ENV";

/// The settings of the node.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The data folder. A relative path starts at the working directory.
    pub data_dir: PathBuf,
    /// Section `auth`.
    pub auth: Auth,
    /// Section `http`. Its `api_key` is `None` until the caller sets the result of [`resolve_api_key`].
    pub http: http::Options,
    /// Section `egress`.
    pub egress: egress::Options,
    /// Section `store`.
    pub store: store::Options,
    /// Section `queue`.
    pub queue: queue::Options,
    /// Section `retry`.
    pub retry: retry::Options,
    /// Section `inbound`.
    pub inbound: inbound::Options,
    /// Section `instance`, and the keys of `linked_device` that concern the actor of an instance.
    pub instance: instance::Options,
    /// Section `bulk`.
    pub bulk: bulk::Options,
    /// Section `webhook`.
    pub webhook: webhook::Options,
    /// Section `media`.
    pub media: media::Options,
    /// Section `relay`.
    pub relay: relay::Options,
    /// Section `linked_device`.
    pub linked: LinkedOptions,
    /// Section `cloud_api`.
    pub cloud_api: CloudApiDefaults,
    /// Section `log`.
    pub log: telemetry::Options,
    /// Maximum time that all parts of the drain together last after a signal.
    pub shutdown_drain: Duration,
    /// Address of the sandbox.
    pub sandbox_listen: SocketAddr,
    /// An instance from the legacy variables, which the start creates or updates.
    pub bootstrap_instance: Option<InstanceConfig>,
    /// Settings that are valid and probably a mistake. The start logs them once.
    pub warnings: Vec<String>,
    rows: Vec<EffectiveSetting>,
}

/// Values for the fields that the configuration of a Cloud API instance leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudApiDefaults {
    /// URL of the Graph API, without the version.
    pub base_url: Url,
    /// Version of the Graph API, for example `v25.0`.
    pub api_version: String,
    /// The token that Meta presents when it verifies the webhook.
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
    /// Every key with its effective value and its source, one per line. Secrets are masked.
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
            self.0.bootstrap_instance.as_ref().and_then(|instance| instance.provider.cloud_api())
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
#[expect(clippy::disallowed_methods, reason = "the only use of the environment")]
pub fn environment() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os()
}

/// Loads the settings: `file` (or the file that `RELEVO_CONFIG` names) overrides the defaults, `env` overrides both.
///
/// `legacy` enables the variables of the documented systems, as `RELEVO_LEGACY_ENV=1` does. Otherwise variables that
/// do not begin with `RELEVO_` are ignored.
///
/// # Errors
///
/// All problems of the configuration, each with its place.
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

/// The variables whose values are UTF-8. A `RELEVO_` variable that is not UTF-8 is a problem; others are ignored.
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
        Some(text) => {
            let source = ValueSource::Variable(LEGACY_VARIABLE.to_owned());
            layers.add_problem(Some(source), format!("is {text:?}; expected 1 or 0"));
            false
        }
    }
}

/// Sets the instance that the legacy variables describe.
fn bootstrap(settings: &mut Settings, account: LegacyAccount) {
    let Ok(id) = legacy::INSTANCE_ID.parse::<InstanceId>() else { return };
    let CloudApiDefaults { base_url, api_version, verify_token, app_secret } = settings.cloud_api.clone();
    settings.bootstrap_instance = Some(InstanceConfig {
        id,
        name: None,
        provider: ProviderConfig::CloudApi(CloudApiSettings {
            phone_number_id: account.phone_number_id,
            access_token: account.access_token,
            app_secret,
            verify_token,
            base_url,
            api_version,
        }),
        rate_limit: None,
        workers: None,
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
