//! The program: its output and its exit codes.

use std::process::{Command, Output};

use crate::ConfigFile;

fn relevo(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relevo"));
    command.args(args).env_clear().envs(env.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn check_config_shows_every_setting_and_its_source() {
    let file = ConfigFile::new("[queue]\ncapacity = 7\n");
    let path = file.path.to_str().unwrap();
    let env = [("RELEVO_AUTH__API_KEY", "hunter2"), ("RELEVO_LOG__LEVEL", "debug")];
    let output = relevo(&["check-config", "--config", path], &env);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let shown = text(&output.stdout);
    assert!(shown.starts_with("configuration is valid\n"), "{shown}");
    let line = |key: &str| {
        let line = shown.lines().find(|line| line.split(" = ").next().unwrap().trim() == key);
        line.unwrap_or_else(|| panic!("{key} in {shown}")).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("queue.capacity"), format!("queue.capacity = 7 # {path}:2"));
    assert_eq!(line("log.level"), "log.level = \"debug\" # RELEVO_LOG__LEVEL");
    assert_eq!(line("data_dir"), "data_dir = \"./data\" # default");
    assert_eq!(line("auth.api_key"), "auth.api_key = ******** # RELEVO_AUTH__API_KEY");
    assert_eq!(line("cloud_api.app_secret"), "cloud_api.app_secret = \"\" # default");
    assert!(text(&output.stderr).contains("warning: auth.api_key"), "{output:?}");
}

#[test]
fn wrong_configuration_or_command_line_exits_with_64() {
    let output = relevo(&["check-config"], &[("RELEVO_HTTP__LISTEN", "x"), ("RELEVO_NO", "1")]);
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    assert!(output.stdout.is_empty());
    assert!(text(&output.stderr).starts_with("relevo: the configuration has 2 problems\n"), "{output:?}");
    for args in [&["serve", "--config", "/nowhere"][..], &["serve", "--nope"], &["nope"], &[]] {
        assert_eq!(relevo(args, &[]).status.code(), Some(64), "{args:?}");
    }
}

#[test]
fn help_and_version_exit_with_0() {
    let output = relevo(&["--version"], &[]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), concat!("relevo ", env!("CARGO_PKG_VERSION"), "\n"));
    let help = relevo(&["--help"], &[]);
    assert_eq!(help.status.code(), Some(0));
    for part in ["relevo dev", "check-config", "Exit codes:"] {
        assert!(text(&help.stdout).contains(part), "{part}");
    }
}
