//! Untyped values of a layer, and the parsers that turn them into settings.
//!
//! A parser takes a [`ConfigValue`] and returns the typed setting, or the text that completes “expected …”.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use crate::telemetry;
use relevo_domain::{Country, InstanceId, Secret};

/// Maximum of every duration: ten years. Adding it to a timestamp cannot overflow.
const MAX_DURATION: Duration = Duration::from_secs(3650 * 24 * 3600);

/// One value of a layer, before it is parsed.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ConfigValue {
    Text(String),
    Integer(i64),
    Decimal(f64),
    Boolean(bool),
    List(Vec<ConfigValue>),
    /// A value that no setting accepts: a table, a date, a number beyond 64 bits.
    Other(&'static str),
}

impl ConfigValue {
    /// Parses the text of a variable as the type of `default`. Text of another type remains text, and the parser of
    /// the setting rejects it.
    pub(super) fn from_text(text: &str, default: &ConfigValue) -> Self {
        let parsed = match default {
            ConfigValue::Integer(_) => text.trim().parse().ok().map(ConfigValue::Integer),
            ConfigValue::Decimal(_) => text.trim().parse().ok().map(ConfigValue::Decimal),
            ConfigValue::Boolean(_) => match text.trim() {
                "true" | "1" => Some(ConfigValue::Boolean(true)),
                "false" | "0" => Some(ConfigValue::Boolean(false)),
                _ => None,
            },
            ConfigValue::List(_) if text.trim_start().starts_with('[') => super::document::parse_list(text),
            ConfigValue::List(_) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Some(ConfigValue::List(items.map(|item| ConfigValue::Text(item.to_owned())).collect()))
            }
            ConfigValue::Text(_) | ConfigValue::Other(_) => None,
        };
        parsed.unwrap_or_else(|| ConfigValue::Text(text.to_owned()))
    }

    fn text(&self) -> Option<&str> {
        match self {
            ConfigValue::Text(text) => Some(text.trim()),
            _ => None,
        }
    }
}

/// TOML syntax, truncated to a length that fits a message.
impl fmt::Display for ConfigValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 120;
        match self {
            ConfigValue::Text(text) if text.chars().count() > SHOWN => {
                let head: String = text.chars().take(SHOWN).collect();
                write!(f, "{head:?}…")
            }
            ConfigValue::Text(text) => write!(f, "{text:?}"),
            ConfigValue::Integer(number) => write!(f, "{number}"),
            ConfigValue::Decimal(number) => write!(f, "{number:?}"),
            ConfigValue::Boolean(truth) => write!(f, "{truth}"),
            ConfigValue::List(items) => {
                let items: Vec<String> = items.iter().map(ConfigValue::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
            ConfigValue::Other(kind) => f.write_str(kind),
        }
    }
}

/// The setting, or the text that completes “expected …”.
pub(super) type ParseResult<T> = Result<T, String>;

/// A duration of at least one millisecond.
pub(super) fn duration(value: &ConfigValue) -> ParseResult<Duration> {
    let parsed = value.text().and_then(parse_duration);
    parsed.filter(|parsed| !parsed.is_zero() && *parsed <= MAX_DURATION).ok_or_else(|| {
        "a duration such as \"500ms\", \"30s\", \"5m\", \"24h\" or \"1h30m\", above zero and at most \"3650d\""
            .to_owned()
    })
}

/// A duration, or zero, which switches the setting off.
pub(super) fn duration_or_zero(value: &ConfigValue) -> ParseResult<Duration> {
    match value.text().and_then(parse_duration) {
        Some(Duration::ZERO) => Ok(Duration::ZERO),
        _ => duration(value),
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (digits, after) = leading(rest, |c| c.is_ascii_digit());
        let (unit, after) = leading(after, |c| c.is_ascii_alphabetic());
        let millis: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        let part = Duration::from_millis(digits.parse::<u64>().ok()?.checked_mul(millis)?);
        total = total.checked_add(part)?;
        rest = after;
    }
    Some(total)
}

/// A number of bytes, at least `least`.
pub(super) fn size<N: TryFrom<u64>>(least: u64) -> impl Fn(&ConfigValue) -> ParseResult<N> {
    move |value| {
        let bytes = match value {
            ConfigValue::Integer(bytes) => u64::try_from(*bytes).ok(),
            value => value.text().and_then(parse_size),
        };
        bytes.filter(|bytes| *bytes >= least).and_then(|bytes| N::try_from(bytes).ok()).ok_or_else(|| {
            format!("a size such as \"16MiB\", \"500KB\" or a number of bytes, not below {least} bytes")
        })
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = leading(text, |c| c.is_ascii_digit());
    let factor: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

fn leading(text: &str, belongs: fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

/// A whole number, at least `least`.
pub(super) fn count<N: TryFrom<i64>>(least: i64) -> impl Fn(&ConfigValue) -> ParseResult<N> {
    move |value| {
        let number = match value {
            ConfigValue::Integer(number) => Some(*number),
            _ => None,
        };
        let number = number.filter(|number| *number >= least).and_then(|number| N::try_from(number).ok());
        number.ok_or_else(|| format!("a whole number, {least} or more"))
    }
}

/// A whole number, at least 1.
pub(super) fn non_zero(value: &ConfigValue) -> ParseResult<NonZeroU32> {
    let number = count::<u32>(1)(value)?;
    NonZeroU32::new(number).ok_or_else(|| "a whole number, 1 or more".to_owned())
}

fn number(value: &ConfigValue) -> Option<f64> {
    match value {
        ConfigValue::Decimal(number) => Some(*number),
        ConfigValue::Integer(number) => u32::try_from(*number).ok().map(f64::from),
        _ => None,
    }
}

/// Messages per minute, converted to messages per second.
pub(super) fn rate_per_minute(value: &ConfigValue) -> ParseResult<f64> {
    let rate = number(value).filter(|rate| (0.1..=6000.0).contains(rate));
    rate.map(|rate| rate / 60.0).ok_or_else(|| "a number from 0.1 to 6000, for example 20".to_owned())
}

/// A number from 0 to 1.
pub(super) fn fraction(value: &ConfigValue) -> ParseResult<f64> {
    let part = number(value).filter(|part| (0.0..=1.0).contains(part));
    part.ok_or_else(|| "a number from 0 to 1, for example 0.5".to_owned())
}

/// Messages per second. 1000 is the highest throughput that Meta grants a number
/// (developers.facebook.com, Cloud API overview, “Throughput”).
pub(super) fn rate(value: &ConfigValue) -> ParseResult<f64> {
    number(value)
        .filter(|rate| (0.001..=1000.0).contains(rate))
        .ok_or_else(|| "a number from 0.001 to 1000, for example 80 or 0.5".to_owned())
}

/// `true` or `false`.
pub(super) fn boolean(value: &ConfigValue) -> ParseResult<bool> {
    match value {
        ConfigValue::Boolean(truth) => Ok(*truth),
        _ => Err("true or false".to_owned()),
    }
}

/// Text that is not blank.
pub(super) fn text(value: &ConfigValue) -> ParseResult<String> {
    let text = value.text().filter(|text| !text.is_empty());
    text.map(str::to_owned).ok_or_else(|| "text that is not empty".to_owned())
}

/// Any type that implements `FromStr`; `expected` describes it.
pub(super) fn parsed<T: FromStr>(expected: &'static str) -> impl Fn(&ConfigValue) -> ParseResult<T> {
    move |value| value.text().and_then(|text| text.parse().ok()).ok_or_else(|| expected.to_owned())
}

/// One of the listed words.
pub(super) fn choice<T: Copy, const N: usize>(
    choices: [(&'static str, T); N],
) -> impl Fn(&ConfigValue) -> ParseResult<T> {
    move |value| {
        let chosen = choices.iter().find(|(word, _)| value.text() == Some(word));
        chosen.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<String> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
            words.join(" or ")
        })
    }
}

/// `None` for empty text, otherwise the result of `parser`.
pub(super) fn optional<T>(
    parser: impl Fn(&ConfigValue) -> ParseResult<T>,
) -> impl Fn(&ConfigValue) -> ParseResult<Option<T>> {
    move |value| {
        if value.text() == Some("") {
            return Ok(None);
        }
        parser(value).map(Some).map_err(|expected| format!("{expected}, or \"\" for none"))
    }
}

/// A list whose items `item` parses.
pub(super) fn list<T>(
    item: impl Fn(&ConfigValue) -> ParseResult<T>,
) -> impl Fn(&ConfigValue) -> ParseResult<Vec<T>> {
    move |value| match value {
        ConfigValue::List(items) => items
            .iter()
            .map(|value| item(value).map_err(|expected| format!("{expected}, which {value} is not")))
            .collect::<Result<_, _>>()
            .map_err(|expected| format!("a list of which each item is {expected}")),
        _ => Err("a list such as [\"a\", \"b\"]".to_owned()),
    }
}

/// An IP address and a port.
pub(super) fn address(value: &ConfigValue) -> ParseResult<SocketAddr> {
    parsed("an IP address and port such as \"127.0.0.1:8080\", \"0.0.0.0:8080\" or \"[::]:8080\"")(value)
}

/// The name of an instance.
pub(super) fn instance_id(value: &ConfigValue) -> ParseResult<InstanceId> {
    parsed("an instance name: 1 to 64 letters, digits, '-', '_' or '.', not beginning with a dot")(value)
}

/// A country, by its two letters or its calling code.
pub(super) fn country(value: &ConfigValue) -> ParseResult<Country> {
    parsed("a country: its two letters such as \"CO\", or its calling code such as \"57\"")(value)
}

/// A secret that an HTTP header can carry: printable ASCII without blanks.
pub(super) fn secret(value: &ConfigValue) -> ParseResult<Secret> {
    let text = value.text().filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()));
    text.map(Secret::new).ok_or_else(|| "printable ASCII text without spaces".to_owned())
}

/// A WebSocket URL. It must not contain credentials, because `check-config` prints it.
pub(super) fn websocket_url(value: &ConfigValue) -> ParseResult<Url> {
    let url = value.text().and_then(|text| Url::parse(text).ok()).filter(|url| {
        matches!(url.scheme(), "ws" | "wss")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.fragment().is_none()
    });
    url.ok_or_else(|| {
        "a ws or wss URL such as \"ws://localhost:8080/ws\", without credentials or fragment".to_owned()
    })
}

/// An absolute http or https URL to which a path can be appended.
pub(super) fn base_url(value: &ConfigValue) -> ParseResult<Url> {
    let url = value.text().and_then(|text| Url::parse(text).ok()).filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    url.ok_or_else(|| {
        "an http or https URL such as \"https://graph.facebook.com\", without credentials, query or fragment"
            .to_owned()
    })
}

/// `*`, or an origin in the form that browsers send.
/// A network, such as `10.0.0.0/8`; a single address is the network of itself.
pub(super) fn network(value: &ConfigValue) -> ParseResult<IpNet> {
    let text = value.text().unwrap_or_default();
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| "a network such as \"10.0.0.0/8\" or an address".to_owned())
}

pub(super) fn origin(value: &ConfigValue) -> ParseResult<String> {
    if value.text() == Some("*") {
        return Ok("*".to_owned());
    }
    let url = base_url(value).ok().filter(|url| url.path() == "/");
    url.map(|url| url.origin().ascii_serialization())
        .ok_or_else(|| "\"*\" or an origin such as \"https://app.example.com\"".to_owned())
}

/// A version of the Graph API, for example `v25.0`.
pub(super) fn api_version(value: &ConfigValue) -> ParseResult<String> {
    let version = value.text().filter(|text| graph_version(text).is_some());
    version.map(str::to_owned).ok_or_else(|| "a Graph API version such as \"v25.0\"".to_owned())
}

/// The major and minor number of a Graph API version. `None` for other text.
pub(super) fn graph_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.strip_prefix('v')?.split_once('.')?;
    let number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?;
    Some((number(major)?, number(minor)?))
}

/// The three numbers of a version of WhatsApp Web.
pub(super) fn web_version(value: &ConfigValue) -> ParseResult<(u32, u32, u32)> {
    let numbers = |text: &str| {
        let mut numbers = text.split('.').map(str::parse);
        let version = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
        numbers.next().is_none().then_some(version)
    };
    value
        .text()
        .and_then(numbers)
        .ok_or_else(|| "a version of WhatsApp Web such as \"2.3000.1035920091\"".to_owned())
}

/// A log level or a filter of levels.
pub(super) fn log_level(value: &ConfigValue) -> ParseResult<String> {
    let level = text(value).ok().filter(|level| telemetry::check_level(level).is_ok());
    level.ok_or_else(|| {
        "off, error, warn, info, debug or trace, or a filter such as \"relevo=debug,warn\"".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_value(text: &str) -> ConfigValue {
        ConfigValue::Text(text.to_owned())
    }

    #[test]
    fn duration_requires_a_unit() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("24h", 86_400_000),
            ("1h30m", 5_400_000),
            (" 1d ", 86_400_000),
        ] {
            assert_eq!(duration(&text_value(text)), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in
            ["", "30", "s", "0s", "1.5s", "-1s", "30 s", "5min", "9999999999999999999s", "3651d", "1h30"]
        {
            assert!(duration(&text_value(bad)).is_err(), "{bad}");
        }
        assert!(duration(&ConfigValue::Integer(30)).is_err());
    }

    #[test]
    fn zero_switches_a_duration_off() {
        assert_eq!(duration_or_zero(&text_value("0s")), Ok(Duration::ZERO));
        assert_eq!(duration_or_zero(&text_value("2h")), Ok(Duration::from_secs(7200)));
        assert!(duration_or_zero(&text_value("0")).is_err());
    }

    #[test]
    fn sizes_are_binary_decimal_or_plain_bytes() {
        for (text, bytes) in [
            ("16MiB", 16 << 20),
            ("1GiB", 1 << 30),
            ("500KB", 500_000),
            ("1 kB", 1_000),
            ("1048576", 1 << 20),
        ] {
            assert_eq!(size::<u64>(0)(&text_value(text)), Ok(bytes), "{text}");
        }
        assert_eq!(size::<usize>(0)(&ConfigValue::Integer(7)), Ok(7));
        for bad in ["", "MiB", "1.5MiB", "16 mib", "99999999TiB", "-1"] {
            assert!(size::<u64>(0)(&text_value(bad)).is_err(), "{bad}");
        }
        assert!(size::<u64>(0)(&ConfigValue::Integer(-1)).is_err());
        assert!(size::<u64>(2)(&ConfigValue::Integer(1)).is_err());
    }

    #[test]
    fn environment_text_is_parsed_as_the_type_of_the_default() {
        assert_eq!(ConfigValue::from_text(" 5 ", &ConfigValue::Integer(1)), ConfigValue::Integer(5));
        assert_eq!(ConfigValue::from_text("five", &ConfigValue::Integer(1)), text_value("five"));
        assert_eq!(ConfigValue::from_text("0.5", &ConfigValue::Decimal(1.0)), ConfigValue::Decimal(0.5));
        assert_eq!(ConfigValue::from_text("1", &ConfigValue::Boolean(false)), ConfigValue::Boolean(true));
        assert_eq!(ConfigValue::from_text("yes", &ConfigValue::Boolean(false)), text_value("yes"));
        let two = ConfigValue::List(vec![text_value("a"), text_value("b")]);
        for text in ["a,b", " a , b ,", "[\"a\", \"b\"]"] {
            assert_eq!(ConfigValue::from_text(text, &ConfigValue::List(Vec::new())), two, "{text}");
        }
        assert_eq!(ConfigValue::from_text("[\"a\"", &ConfigValue::List(Vec::new())), text_value("[\"a\""));
        assert_eq!(ConfigValue::from_text("8080", &text_value("")), text_value("8080"));
    }

    #[test]
    fn rates_are_positive_and_finite() {
        assert_eq!(rate(&ConfigValue::Integer(80)), Ok(80.0));
        assert_eq!(rate(&ConfigValue::Decimal(0.5)), Ok(0.5));
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1001.0] {
            assert!(rate(&ConfigValue::Decimal(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn origins_are_normalised_to_the_form_that_browsers_send() {
        assert_eq!(origin(&text_value("*")), Ok("*".to_owned()));
        assert_eq!(
            origin(&text_value("https://App.example.com:443/")),
            Ok("https://app.example.com".to_owned())
        );
        for bad in ["", "app.example.com", "https://app.example.com/path", "ftp://a"] {
            assert!(origin(&text_value(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_have_a_prefix_or_are_one_address() {
        for (text, network_text) in
            [("10.0.0.0/8", "10.0.0.0/8"), ("192.0.2.1", "192.0.2.1/32"), ("2001:db8::1", "2001:db8::1/128")]
        {
            assert_eq!(network(&text_value(text)), Ok(network_text.parse().unwrap()));
        }
        for bad in ["", "10.0.0.0/33", "proxy", "10.0.0.0/8, 192.0.2.1", "*"] {
            assert!(network(&text_value(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn base_urls_carry_no_credentials_or_query() {
        assert!(base_url(&text_value("http://127.0.0.1:8090")).is_ok());
        for bad in [
            "graph.facebook.com",
            "https://user:pass@host",
            "https://host/?a=b",
            "https://host/#a",
            "file:///x",
        ] {
            assert!(base_url(&text_value(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn secret_requires_text_that_fits_a_header() {
        assert_eq!(secret(&text_value("k-1_2")), Ok(Secret::new("k-1_2")));
        for bad in ["", "two words", "ñ", "line\nline"] {
            assert!(secret(&text_value(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn graph_versions_have_a_v_and_two_numbers() {
        assert_eq!(graph_version("v25.0"), Some((25, 0)));
        for bad in ["25.0", "v25", "v25.", "v.0", "v+2.0", "v25.0.1", ""] {
            assert_eq!(graph_version(bad), None, "{bad}");
        }
    }
}
