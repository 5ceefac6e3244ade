//! The variables of the documented systems.

use crate::{ConfigFile, from_env, from_legacy, only_problem};
use relevo::config;
use relevo::telemetry;
use relevo_domain::{ProviderKind, Secret};

const DOTENV: &[(&str, &str)] = &[
    ("API_KEY", "kero-kero-api-key"),
    ("APP_PORT", "5050"),
    ("VERIFY_TOKEN", "hola"),
    ("ACCESS_TOKEN", "EAAG123"),
    ("PHONE_NUMBER_ID", "106540352242922"),
    ("VERSION", "v17.0"),
    ("BASE_URL", "https://graph.example"),
    ("WEBSOCKET_URL", "ws://localhost:8080/ws"),
    ("BULK_MAX_WORKERS", "7"),
    ("LOG_LEVEL", "WARNING"),
    ("LOG_FORMAT", "JSON"),
    ("CORS_ALLOWED_ORIGINS", "*"),
    ("DB_DRIVER", "postgres"),
    ("REDIS_URL", "redis://localhost:6379/0"),
    ("JWT_SECRET", ""),
];

#[test]
fn legacy_variables_set_the_corresponding_settings() {
    let settings = from_legacy(DOTENV).unwrap();
    assert_eq!(settings.auth.api_key, Some(Secret::new("kero-kero-api-key")));
    assert_eq!(settings.http.listen.to_string(), "127.0.0.1:5050");
    assert_eq!(settings.http.cors_origins, ["*"]);
    assert_eq!(settings.relay.url.as_ref().unwrap().as_str(), "ws://localhost:8080/ws");
    assert_eq!(settings.log.level, "warn");
    assert_eq!(settings.log.format, telemetry::LogFormat::Json);
    assert_eq!(settings.http.default_instance.as_ref().unwrap().as_str(), "default");
    assert_eq!(settings.instance.bulk_workers.get(), 7);
    let instance = settings.bootstrap_instance.unwrap();
    assert_eq!((instance.id.as_str(), instance.provider.kind()), ("default", ProviderKind::CloudApi));
    let account = instance.provider.cloud_api().unwrap();
    assert_eq!(account.phone_number_id, "106540352242922");
    assert_eq!(account.access_token, Secret::new("EAAG123"));
    assert_eq!(account.verify_token, Some(Secret::new("hola")));
    assert_eq!(account.base_url.as_str(), "https://graph.example/");
    assert_eq!(account.api_version, "v17.0", "used as given");
}

#[test]
fn outdated_graph_version_causes_a_warning() {
    let warnings = from_legacy(DOTENV).unwrap().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert!(warnings[0].contains("v17.0 (VERSION)"), "{warnings:#?}");
}

#[test]
fn legacy_variables_are_ignored_unless_enabled() {
    let settings = from_env(DOTENV).unwrap();
    assert_eq!((settings.auth.api_key, settings.bootstrap_instance), (None, None));
    let mut env = DOTENV.to_vec();
    env.push(("RELEVO_LEGACY_ENV", "1"));
    assert!(from_env(&env).unwrap().bootstrap_instance.is_some());
}

#[test]
fn legacy_variables_override_the_file_and_relevo_variables_override_both() {
    let file = ConfigFile::new("[http]\nlisten = \"0.0.0.0:1\"\n[auth]\napi_key = \"from-the-file-0123\"\n");
    let load = |extra: &[(&str, &str)]| {
        let env = [&[("APP_PORT", "2"), ("API_KEY", "from-the-old-0123")], extra].concat();
        config::load(Some(&file.path), env, true).unwrap()
    };
    let settings = load(&[]);
    assert_eq!(settings.http.listen.to_string(), "0.0.0.0:2", "the port alone is replaced");
    assert_eq!(settings.auth.api_key, Some(Secret::new("from-the-old-0123")));
    let settings = load(&[("RELEVO_HTTP__LISTEN", "[::1]:3"), ("RELEVO_AUTH__API_KEY", "from-the-new-0123")]);
    assert_eq!(settings.http.listen.to_string(), "[::1]:3");
    assert_eq!(settings.auth.api_key, Some(Secret::new("from-the-new-0123")));
}

#[test]
fn configured_default_instance_is_kept() {
    let account = [("ACCESS_TOKEN", "t"), ("PHONE_NUMBER_ID", "1"), ("RELEVO_DEFAULT_INSTANCE", "shop")];
    let settings = from_legacy(&account).unwrap();
    assert_eq!(settings.http.default_instance.unwrap().as_str(), "shop");
    assert!(settings.bootstrap_instance.is_some());
}

#[test]
fn empty_legacy_variables_count_as_not_set() {
    let env = DOTENV.iter().map(|(name, _)| (*name, "")).collect::<Vec<_>>();
    let settings = from_legacy(&env).unwrap();
    assert_eq!(settings.bootstrap_instance, None);
    assert_eq!(settings.warnings, Vec::<String>::new());
}

#[test]
fn problem_names_the_legacy_variable() {
    for (env, start) in [
        (vec![("APP_PORT", "http")], "APP_PORT: is \"http\"; expected a port"),
        (vec![("LOG_LEVEL", "loud")], "LOG_LEVEL: `log.level` is \"loud\"; expected"),
        (vec![("VERSION", "17")], "VERSION: `cloud_api.api_version` is \"17\"; expected"),
        (
            vec![("WEBSOCKET_URL", "http://x")],
            "WEBSOCKET_URL: `relay.url` is \"http://x\"; expected a ws or wss",
        ),
        (vec![("PHONE_NUMBER_ID", "1")], "PHONE_NUMBER_ID: needs ACCESS_TOKEN"),
        (vec![("ACCESS_TOKEN", "1")], "ACCESS_TOKEN: needs PHONE_NUMBER_ID"),
        (vec![("ACCESS_TOKEN", "1"), ("PHONE_NUMBER_ID", "+52")], "PHONE_NUMBER_ID: is \"+52\""),
    ] {
        let problem = only_problem(from_legacy(&env));
        assert!(problem.starts_with(start), "{problem}");
    }
}
