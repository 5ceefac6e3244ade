//! The configuration from outside: files, variables, messages. The tests do not change the environment of their
//! process; tests that run the program pass it a separate environment.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a helper of a test may")]

mod legacy;
mod program;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use relevo::config::{self, ConfigErrors, Settings};
use relevo::{bulk, inbound, instance, media, queue, relay, retry, telemetry, webhook};
use relevo_domain::{AmbiguousPolicy, Secret};
use relevo_egress as egress;
use relevo_provider::LinkedOptions;
use relevo_store as store;

fn from_env(env: &[(&str, &str)]) -> Result<Settings, ConfigErrors> {
    config::load(None, env.iter().copied(), false)
}

fn from_legacy(env: &[(&str, &str)]) -> Result<Settings, ConfigErrors> {
    config::load(None, env.iter().copied(), true)
}

/// A configuration file that is deleted when this value is dropped.
struct ConfigFile {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl ConfigFile {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relevo.toml");
        fs::write(&path, text).unwrap();
        Self { _dir: dir, path }
    }

    fn load(&self, env: &[(&str, &str)]) -> Result<Settings, ConfigErrors> {
        config::load(Some(&self.path), env.iter().copied(), false)
    }
}

fn from_file(text: &str) -> Result<Settings, ConfigErrors> {
    ConfigFile::new(text).load(&[])
}

/// The printed problems, without the folder of the file.
#[track_caller]
fn problems(outcome: Result<Settings, ConfigErrors>) -> Vec<String> {
    let errors = outcome.expect_err("a configuration with problems");
    let shorten = |text: String| match text.split_once("/relevo.toml:") {
        Some((folder, rest)) if folder.starts_with('/') && !folder.contains(' ') => {
            format!("relevo.toml:{rest}")
        }
        _ => text,
    };
    errors.problems.iter().map(|problem| shorten(problem.to_string())).collect()
}

#[track_caller]
fn only_problem(outcome: Result<Settings, ConfigErrors>) -> String {
    let mut problems = problems(outcome);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems.remove(0)
}

/// `config/default.toml` and every `Options` that implements `Default` state the same values. `http`, `log` and the
/// other settings without `Default` have no second statement in the code.
#[test]
fn default_file_equals_the_defaults_of_every_options() {
    let settings = from_env(&[]).unwrap();
    let equal = |file: &dyn std::fmt::Debug, code: &dyn std::fmt::Debug| {
        assert_eq!(format!("{file:#?}"), format!("{code:#?}"));
    };
    equal(&settings.egress, &egress::Options::default());
    equal(&settings.store, &store::Options::default());
    equal(&settings.queue, &queue::Options::default());
    equal(&settings.retry, &retry::Options::default());
    equal(&settings.inbound, &inbound::Options::default());
    equal(&settings.instance, &instance::Options::default());
    equal(&settings.bulk, &bulk::Options::default());
    equal(&settings.webhook, &webhook::Options::default());
    equal(&settings.media, &media::Options::default());
    equal(&settings.relay, &relay::Options::default());
    equal(&settings.linked, &LinkedOptions::default());
}

#[test]
fn defaults_listen_on_loopback_and_cause_no_warning() {
    let settings = from_env(&[]).unwrap();
    assert_eq!(settings.data_dir, PathBuf::from("./data"));
    assert_eq!(settings.http.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(settings.http.default_instance, None);
    assert_eq!(settings.http.default_country, None);
    assert_eq!(settings.http.json_body_limit, 1 << 20);
    assert_eq!(settings.http.media_body_limit, 70 << 20);
    assert_eq!(settings.http.max_connections, 1024);
    assert_eq!(settings.http.cors_origins, Vec::<String>::new());
    assert!(settings.auth.required && settings.auth.api_key.is_none() && !settings.auth.allow_open);
    assert!(!settings.http.query_key && !settings.http.open_api_on_loopback);
    assert!(!settings.egress.allow_private);
    assert_eq!(settings.cloud_api.base_url.as_str(), "https://graph.facebook.com/");
    assert_eq!(settings.cloud_api.api_version, "v25.0");
    assert_eq!((settings.cloud_api.verify_token, settings.cloud_api.app_secret), (None, None));
    assert_eq!(settings.log.level, "info");
    assert_eq!(settings.log.format, telemetry::LogFormat::Text);
    assert_eq!(settings.shutdown_drain, Duration::from_secs(20));
    assert_eq!(settings.sandbox_listen.to_string(), "127.0.0.1:8090");
    assert_eq!(settings.bootstrap_instance, None);
    assert_eq!(settings.warnings, Vec::<String>::new());
}

#[test]
fn default_file_is_a_valid_configuration_file() {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/default.toml")).unwrap();
    from_file(&text).unwrap();
}

#[test]
fn file_overrides_defaults_and_environment_overrides_both() {
    let file = ConfigFile::new(
        "data_dir = \"/srv/relevo\"\n[queue]\nlease_timeout = \"3m\"\ncapacity = 7\n[retry.bulk]\non_ambiguous = \"resend\"\n",
    );
    let settings = file.load(&[("RELEVO_QUEUE__CAPACITY", "9"), ("HOME", "/root")]).unwrap();
    assert_eq!(settings.data_dir, PathBuf::from("/srv/relevo"));
    assert_eq!(settings.queue.lease_timeout, Duration::from_secs(180));
    assert_eq!(settings.queue.capacity, 9);
    assert_eq!(settings.retry.bulk.on_ambiguous, AmbiguousPolicy::Resend);
    assert_eq!(settings.retry.transactional.on_ambiguous, AmbiguousPolicy::Hold);
}

#[test]
fn every_type_of_setting_can_come_from_the_environment() {
    let settings = from_env(&[
        ("RELEVO_HTTP__LISTEN", "[::1]:9"),
        ("RELEVO_DATA_DIR", "/tmp/x"),
        ("RELEVO_AUTH__API_KEY", "0123456789abcdef"),
        ("RELEVO_DEFAULT_INSTANCE", "shop"),
        ("RELEVO_DEFAULT_COUNTRY", "57"),
        ("RELEVO_EGRESS__ALLOW_PRIVATE", "1"),
        ("RELEVO_HTTP__CORS_ORIGINS", "https://a.example, https://b.example:8443/"),
        ("RELEVO_HTTP__MEDIA_BODY_LIMIT", "104857600"),
        ("RELEVO_STORE__CACHE_CAPACITY", "1GiB"),
        ("RELEVO_INSTANCE__RATE_PER_SECOND", "0.5"),
        ("RELEVO_INSTANCE__WORKERS", "3"),
        ("RELEVO_LOG__FORMAT", "json"),
        ("RELEVO_LOG__LEVEL", "relevo=debug,warn"),
    ])
    .unwrap();
    assert_eq!(settings.http.listen.to_string(), "[::1]:9");
    assert_eq!(settings.auth.api_key, Some(Secret::new("0123456789abcdef")));
    assert_eq!(settings.http.default_instance.unwrap().as_str(), "shop");
    assert_eq!(settings.http.default_country.unwrap().iso(), "CO");
    assert!(settings.egress.allow_private);
    assert_eq!(settings.http.cors_origins, ["https://a.example", "https://b.example:8443"]);
    assert_eq!(settings.http.media_body_limit, 100 << 20);
    assert_eq!(settings.store.cache_capacity, 1 << 30);
    assert_eq!(settings.instance.rate_limit.per_second, 0.5);
    assert_eq!(settings.instance.workers.get(), 3);
    assert_eq!(settings.log.format, telemetry::LogFormat::Json);
    let toml = from_env(&[("RELEVO_HTTP__CORS_ORIGINS", "[\"*\"]")]).unwrap();
    assert_eq!(toml.http.cors_origins, ["*"]);
}

#[test]
fn empty_optional_variable_counts_as_not_set() {
    let settings = from_env(&[("RELEVO_AUTH__API_KEY", ""), ("RELEVO_DEFAULT_INSTANCE", "")]).unwrap();
    assert_eq!((settings.auth.api_key, settings.http.default_instance), (None, None));
}

#[test]
fn file_of_the_command_line_overrides_the_file_of_the_variable() {
    let (one, two) = (ConfigFile::new("data_dir = \"one\""), ConfigFile::new("data_dir = \"two\""));
    let env = [("RELEVO_CONFIG", one.path.to_str().unwrap())];
    assert_eq!(config::load(None, env, false).unwrap().data_dir, PathBuf::from("one"));
    assert_eq!(two.load(&env).unwrap().data_dir, PathBuf::from("two"));
    assert!(from_env(&[("RELEVO_CONFIG", "")]).is_ok());
    let missing = only_problem(from_env(&[("RELEVO_CONFIG", "/nowhere/relevo.toml")]));
    assert!(missing.contains("cannot read /nowhere/relevo.toml"), "{missing}");
}

#[test]
fn unknown_key_is_reported_with_its_line_and_the_nearest_known_key() {
    assert_eq!(
        only_problem(from_file("\n[http]\nlistn = \"127.0.0.1:1\"\n")),
        "relevo.toml:3: unknown key `http.listn`; did you mean `http.listen`?"
    );
    for (text, nearest) in [
        ("listen = \"127.0.0.1:1\"", "`http.listen`"),
        ("[quue]\ncapacity = 1", "`queue.capacity`"),
        ("[htttp]\n", "`"),
        ("[retry]\nmax_attempts = 1", "max_attempts`"),
        ("http.listen.port = 80", "`http.listen`"),
        ("\"http.listen\" = \"127.0.0.1:1\"", "`http.listen`"),
    ] {
        let problem = only_problem(from_file(text));
        assert!(problem.contains("unknown key") && problem.contains(nearest), "{problem}");
    }
}

#[test]
fn unknown_variable_is_reported_with_the_nearest_known_variable() {
    assert_eq!(
        only_problem(from_env(&[("RELEVO_HTTP_LISTEN", "127.0.0.1:1")])),
        "RELEVO_HTTP_LISTEN: unknown variable; did you mean RELEVO_HTTP__LISTEN?"
    );
    let problem = only_problem(from_env(&[("RELEVO_LEGACY", "1")]));
    assert!(problem.ends_with("did you mean RELEVO_LEGACY_ENV?"), "{problem}");
    let problem = only_problem(from_env(&[("RELEVO_PORT", "9000")]));
    assert!(problem.contains("unknown variable"), "{problem}");
}

#[test]
fn variables_that_kubernetes_sets_for_a_service_named_relevo_are_ignored() {
    from_env(&[
        ("RELEVO_SERVICE_HOST", "10.0.0.11"),
        ("RELEVO_SERVICE_PORT", "8080"),
        ("RELEVO_PORT", "tcp://10.0.0.11:8080"),
        ("RELEVO_PORT_8080_TCP_ADDR", "10.0.0.11"),
    ])
    .unwrap();
}

#[test]
fn wrong_value_is_reported_with_key_place_value_and_expectation() {
    let problem = only_problem(from_file("[instance]\n\nsend_timeout = 30\n"));
    assert!(
        problem.starts_with("relevo.toml:3: `instance.send_timeout` is 30; expected a duration such as"),
        "{problem}"
    );
    let problem = only_problem(from_env(&[("RELEVO_QUEUE__CAPACITY", "lots")]));
    assert_eq!(
        problem,
        "RELEVO_QUEUE__CAPACITY: `queue.capacity` is \"lots\"; expected a whole number, 1 or more"
    );
    let problem = only_problem(from_file("[retry.bulk]\non_ambiguous = \"drop\"\n"));
    assert!(problem.ends_with("is \"drop\"; expected \"hold\" or \"resend\""), "{problem}");
    let problem = only_problem(from_file("http = 5\n"));
    assert_eq!(problem, "relevo.toml:1: `http` is a section, not a value; write [http] and its keys below");
}

#[test]
fn values_out_of_range_are_refused() {
    for (name, text) in [
        ("RELEVO_HTTP__LISTEN", "localhost:8080"),
        ("RELEVO_HTTP__LISTEN", "8080"),
        ("RELEVO_HTTP__MAX_CONNECTIONS", "0"),
        ("RELEVO_HTTP__CORS_ORIGINS", "example.com"),
        ("RELEVO_HTTP__READ_TIMEOUT", "0s"),
        ("RELEVO_DATA_DIR", " "),
        ("RELEVO_DEFAULT_INSTANCE", "a/b"),
        ("RELEVO_AUTH__REQUIRED", "yes"),
        ("RELEVO_STORE__CACHE_CAPACITY", "1KiB"),
        ("RELEVO_RETRY__BULK__MAX_ATTEMPTS", "0"),
        ("RELEVO_RETRY__BULK__MAX_ATTEMPTS", "-1"),
        ("RELEVO_INSTANCE__WORKERS", "4294967296"),
        ("RELEVO_INSTANCE__RATE_PER_SECOND", "nan"),
        ("RELEVO_CLOUD_API__BASE_URL", "graph.facebook.com"),
        ("RELEVO_CLOUD_API__API_VERSION", "25"),
        ("RELEVO_LOG__LEVEL", "loud"),
        ("RELEVO_LOG__FORMAT", "xml"),
        ("RELEVO_LEGACY_ENV", "maybe"),
    ] {
        let problem = only_problem(from_env(&[(name, text)]));
        assert!(problem.starts_with(name) && problem.contains("expected"), "{problem}");
    }
}

#[test]
fn all_problems_are_reported_together() {
    let file = ConfigFile::new("datadir = \"x\"\n[queue]\ncapacity = \"many\"\n[log]\nlevel = 3\n");
    let outcome = file.load(&[("RELEVO_FOO", "1"), ("RELEVO_HTTP__LISTEN", "here")]);
    let text = outcome.as_ref().unwrap_err().to_string();
    assert!(text.starts_with("the configuration has 5 problems\n  "), "{text}");
    let problems = problems(outcome).join("\n");
    for part in ["`datadir`", "`queue.capacity`", "`log.level`", "RELEVO_FOO", "`http.listen`"] {
        assert!(problems.contains(part), "{part} in {problems}");
    }
}

#[test]
fn syntax_error_is_reported_with_its_line() {
    let problem = only_problem(from_file("data_dir = \"x\"\n[http\nlisten = \"y\"\n"));
    assert!(problem.starts_with("relevo.toml:2: not valid TOML: "), "{problem}");
    let problem = only_problem(from_file("data_dir = \"x\"\ndata_dir = \"y\"\n"));
    assert!(problem.starts_with("relevo.toml:2: "), "{problem}");
}

#[test]
fn no_message_contains_a_secret() {
    let spaced = "hunter2 hunter2";
    for outcome in [
        from_env(&[("RELEVO_AUTH__API_KEY", spaced)]),
        from_env(&[("RELEVO_CLOUD_API__APP_SECRET", spaced), ("RELEVO_QUEUE__CAPACITY", "x")]),
        from_file("[cloud_api]\nverify_token = [\"hunter2\"]\n"),
        from_file("[auth]\napi_key = \"hunter2\nrequired = true\n"),
        from_file("[auth]\napi_key = hunter2\n"),
        from_file("[auth]\napi_kee = \"hunter2\"\n"),
        from_legacy(&[("ACCESS_TOKEN", spaced), ("PHONE_NUMBER_ID", "1")]),
    ] {
        let errors = outcome.unwrap_err();
        assert!(!format!("{errors} {errors:?}").contains("hunter2"), "{errors:?}");
    }
    let settings = from_legacy(&[
        ("API_KEY", "hunter2hunter2hunter2"),
        ("VERIFY_TOKEN", "hunter2"),
        ("ACCESS_TOKEN", "hunter2"),
        ("PHONE_NUMBER_ID", "123"),
        ("RELEVO_CLOUD_API__APP_SECRET", "hunter2"),
    ])
    .unwrap();
    let shown = format!("{} {settings:?}", settings.effective());
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn conflict_names_both_settings_and_their_sources() {
    let file = ConfigFile::new("[instance]\nsend_timeout = \"2m\"\n");
    let problem = only_problem(file.load(&[]));
    let place = format!("({}:2)", file.path.display());
    for part in ["`queue.lease_timeout` = \"90s\" (default)", "`instance.send_timeout` = \"2m\"", &place] {
        assert!(problem.contains(part), "{part} in {problem}");
    }
    for (env, keys) in [
        (("RELEVO_INSTANCE__PROBE_TIMEOUT", "30s"), ["probe_timeout", "probe_interval"]),
        (("RELEVO_INSTANCE__RESTART_DELAY", "1h"), ["restart_delay", "restart_max_delay"]),
        (("RELEVO_RETRY__BULK__FIRST_DELAY", "1h"), ["retry.bulk.first_delay", "retry.bulk.max_delay"]),
        (
            ("RELEVO_RETRY__TRANSACTIONAL__MAX_DELAY", "1ms"),
            ["transactional.first_delay", "transactional.max_delay"],
        ),
        (("RELEVO_HTTP__MEDIA_BODY_LIMIT", "1KiB"), ["media_body_limit", "json_body_limit"]),
        (("RELEVO_QUEUE__LEASE_TIMEOUT", "30s"), ["lease_timeout", "send_timeout"]),
    ] {
        let problem = only_problem(from_env(&[env]));
        assert!(keys.iter().all(|key| problem.contains(key)) && problem.contains(env.0), "{problem}");
    }
}

#[test]
fn conflict_is_reported_beside_other_problems() {
    let env = [("RELEVO_HTTP__LISTEN", "here"), ("RELEVO_QUEUE__LEASE_TIMEOUT", "1s")];
    assert_eq!(problems(from_env(&env)).len(), 2);
}

#[test]
fn conflicts_are_not_checked_while_a_layer_is_missing() {
    let file = ConfigFile::new("[queue]\nlease_timeout = \"1h\"\n[\n");
    let problem = only_problem(file.load(&[("RELEVO_INSTANCE__SEND_TIMEOUT", "10m")]));
    assert!(problem.starts_with("relevo.toml:3: not valid TOML"), "{problem}");
}

#[test]
fn unreadable_value_is_not_checked_for_conflicts() {
    let problem = only_problem(from_env(&[
        ("RELEVO_QUEUE__LEASE_TIMEOUT", "soon"),
        ("RELEVO_INSTANCE__SEND_TIMEOUT", "10m"),
    ]));
    assert!(problem.contains("\"soon\""), "{problem}");
}

#[test]
fn node_without_a_key_listens_on_loopback_unless_allow_open_is_set() {
    let open = ("RELEVO_AUTH__REQUIRED", "false");
    let reachable = ("RELEVO_HTTP__LISTEN", "0.0.0.0:8080");
    for listen in ["0.0.0.0:8080", "[::]:8080", "192.168.1.2:80", "[::ffff:10.0.0.1]:80"] {
        let problem = only_problem(from_env(&[open, ("RELEVO_HTTP__LISTEN", listen)]));
        assert!(problem.contains("auth.required") && problem.contains("auth.allow_open"), "{problem}");
    }
    for listen in ["127.0.0.1:8080", "127.9.9.9:1", "[::1]:8080", "[::ffff:127.0.0.1]:80"] {
        assert!(from_env(&[open, ("RELEVO_HTTP__LISTEN", listen)]).is_ok(), "{listen}");
    }
    let settings = from_env(&[open, reachable, ("RELEVO_AUTH__ALLOW_OPEN", "true")]).unwrap();
    assert!(settings.warnings.iter().any(|warning| warning.contains("auth.required")));
    assert!(from_env(&[reachable]).is_ok(), "a node with a key may listen on every address");
}

#[test]
fn open_api_on_loopback_requires_a_loopback_address() {
    let open = ("RELEVO_AUTH__OPEN_API_ON_LOOPBACK", "true");
    let reachable = ("RELEVO_HTTP__LISTEN", "0.0.0.0:8080");
    let problem = only_problem(from_env(&[open, reachable]));
    assert!(problem.contains("auth.open_api_on_loopback") && problem.contains("http.listen"), "{problem}");
    for env in [vec![open], vec![open, reachable, ("RELEVO_AUTH__ALLOW_OPEN", "true")]] {
        let settings = from_env(&env).unwrap();
        assert!(settings.http.open_api_on_loopback && !settings.http.query_key);
        assert!(settings.warnings.iter().any(|warning| warning.contains("open_api_on_loopback")));
    }
    assert!(from_env(&[("RELEVO_AUTH__QUERY_KEY", "true"), reachable]).unwrap().http.query_key);
}

#[test]
fn doubtful_settings_cause_warnings() {
    for (env, part) in [
        (vec![("RELEVO_CLOUD_API__API_VERSION", "v17.0")], "v17.0"),
        (vec![("RELEVO_AUTH__API_KEY", "short")], "shorter than"),
        (vec![("RELEVO_AUTH__REQUIRED", "0"), ("RELEVO_AUTH__API_KEY", "0123456789abcdef")], "not checked"),
        (vec![("RELEVO_AUTH__REQUIRED", "0"), ("RELEVO_HTTP__CORS_ORIGINS", "*")], "every web page"),
    ] {
        let warnings = from_env(&env).unwrap().warnings;
        assert!(warnings.iter().any(|warning| warning.contains(part)), "{part} in {warnings:?}");
        assert!(!warnings.iter().any(|warning| warning.contains("0123456789abcdef")), "{warnings:?}");
    }
}
