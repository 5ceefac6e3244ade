//! The numbering plans of countries: which national numbers can exist behind a calling code.
//!
//! `numbering_plan/countries.txt` has for each calling code the lengths of national numbers by their first three digits, and
//! the first digits and lengths of mobile numbers, whose ranges grow.
//! `numbering_plan/make.py` writes it from the metadata of libphonenumber 9.0.20 (Apache-2.0,
//! <https://github.com/google/libphonenumber>). Plans change without notice and WhatsApp knows numbers that no plan lists,
//! so a number outside its plan is a reason to warn and never to refuse.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{PhoneNumber, ValidationError};

const TABLE: &str = include_str!("numbering_plan/countries.txt");

/// Plans by calling code. A calling code is never the beginning of another one.
static PLANS: LazyLock<Vec<Plan>> = LazyLock::new(|| TABLE.lines().filter_map(Plan::parse).collect());

/// Calling codes of services and satellites, which belong to no country. Source: ITU-T E.164, list of assigned codes.
const CODES_WITHOUT_COUNTRY: [&str; 9] = ["800", "808", "870", "878", "881", "882", "883", "888", "979"];

/// Number of leading digits by which a plan tells national numbers apart.
const PREFIX_DIGITS: usize = 3;

/// A country, by its ISO 3166-1 code of two letters.
#[derive(Clone, Copy)]
pub struct Country {
    iso: &'static str,
    plan: &'static Plan,
}

/// A number outside the plan of the country that its first digits name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanMismatch {
    phone: PhoneNumber,
    /// The main country of the calling code; `None` if no country has such a code.
    country: Option<Country>,
}

/// The national numbers behind one calling code.
struct Plan {
    code: &'static str,
    /// The countries with this code, the main one first.
    regions: Vec<&'static str>,
    english: &'static str,
    spanish: &'static str,
    /// The digits that are dialled in front of a national number within the country.
    trunk: &'static str,
    /// The first digits and the lengths of mobile numbers.
    mobile: Vec<(&'static str, usize)>,
    /// By their first prefix.
    rules: Vec<Rule>,
}

/// The lengths of the national numbers that begin with the prefixes from `first` to `last`.
struct Rule {
    first: u16,
    last: u16,
    /// Bit n: there are numbers of n digits.
    lengths: u32,
}

impl Plan {
    /// Parses a line of the table: `code;countries;English name;Spanish name;trunk prefix;mobile;lengths=prefixes …`.
    fn parse(line: &'static str) -> Option<Self> {
        let mut fields = line.split(';');
        let mut next = || fields.next();
        let (code, regions, english, spanish, trunk) = (next()?, next()?, next()?, next()?, next()?);
        let mobile = next()?.split(',').filter_map(|class| {
            let (first, length) = class.split_once('/')?;
            Some((first, length.parse().ok()?))
        });
        let mobile = mobile.collect();
        let mut rules = Vec::new();
        for group in next()?.split(' ') {
            let (lengths, prefixes) = group.split_once('=')?;
            let lengths = lengths.split('/').filter_map(|length| 1u32.checked_shl(length.parse().ok()?));
            let lengths = lengths.fold(0, std::ops::BitOr::bitor);
            rules.extend(prefixes.split(',').filter_map(|prefixes| Rule::parse(prefixes, lengths)));
        }
        rules.sort_by_key(|rule| rule.first);
        Some(Self { code, regions: regions.split(',').collect(), english, spanish, trunk, mobile, rules })
    }

    /// The plan of the calling code that the digits begin with, and the national number behind it.
    fn of(digits: &str) -> Option<(&'static Self, &str)> {
        (1..=PREFIX_DIGITS).find_map(|length| {
            let (code, national) = digits.split_at_checked(length)?;
            let plan = PLANS.iter().find(|plan| plan.code == code)?;
            Some((plan, national))
        })
    }

    fn has(&self, national: &str) -> bool {
        let is_of = |class: &(&str, usize)| national.starts_with(class.0) && national.len() == class.1;
        self.mobile.iter().any(is_of) || self.has_prefix(national)
    }

    fn has_prefix(&self, national: &str) -> bool {
        let Some((prefix, _)) = national.split_at_checked(PREFIX_DIGITS) else { return false };
        let Ok(prefix) = prefix.parse::<u16>() else { return false };
        let Ok(length) = u32::try_from(national.len()) else { return false };
        let at = self.rules.partition_point(|rule| rule.first <= prefix);
        let rule = at.checked_sub(1).and_then(|at| self.rules.get(at)).filter(|rule| prefix <= rule.last);
        rule.is_some_and(|rule| rule.lengths.checked_shr(length).is_some_and(|lengths| lengths & 1 == 1))
    }

    /// Whether the number exists, in one of its spellings.
    fn has_in_any_spelling(&self, national: &str) -> bool {
        let other = || {
            let phone = PhoneNumber::read(&format!("+{}{national}", self.code), None).ok()?;
            let other = phone.other_spelling()?;
            Some(self.has(other.digits().strip_prefix(self.code)?))
        };
        self.has(national) || other().unwrap_or(false)
    }
}

impl Rule {
    /// Parses `31`, `31-36` or `*`; prefixes may have fewer than [`PREFIX_DIGITS`] digits.
    fn parse(prefixes: &str, lengths: u32) -> Option<Self> {
        let (first, last) = match prefixes {
            "*" => ("", ""),
            prefixes => prefixes.split_once('-').unwrap_or((prefixes, prefixes)),
        };
        let padded = |prefix: &str, digit: char| -> Option<u16> {
            let padding = PREFIX_DIGITS.checked_sub(prefix.len())?;
            format!("{prefix}{}", digit.to_string().repeat(padding)).parse().ok()
        };
        Some(Self { first: padded(first, '0')?, last: padded(last, '9')?, lengths })
    }
}

impl Country {
    /// The main country of the calling code that the digits begin with.
    fn of_code(digits: &str) -> Option<Self> {
        let (plan, _) = Plan::of(digits)?;
        Some(Self { iso: plan.regions.first()?, plan })
    }

    /// The ISO 3166-1 code of two letters.
    pub fn iso(&self) -> &'static str {
        self.iso
    }

    /// The international number of a national number of this country. `None` for any other number.
    pub(super) fn complete(&self, digits: &str) -> Option<String> {
        let Plan { code, trunk, .. } = self.plan;
        if digits.strip_prefix(code).is_some_and(|national| self.plan.has_in_any_spelling(national)) {
            return None;
        }
        let trunks = [*trunk, "0"].into_iter().filter(|trunk| !trunk.is_empty());
        let without_trunk = trunks.filter_map(|trunk| digits.strip_prefix(trunk));
        let national = std::iter::once(digits)
            .chain(without_trunk)
            .find(|national| self.plan.has_in_any_spelling(national))?;
        Some(format!("{code}{national}"))
    }
}

impl FromStr for Country {
    type Err = ValidationError;

    /// Accepts the ISO code (`CO`) or the calling code (`57`, `+57`).
    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let text = text.trim();
        let iso = text.to_ascii_uppercase();
        let by_iso = || {
            PLANS.iter().find_map(|plan| {
                let iso = *plan.regions.iter().find(|region| **region == iso)?;
                Some(Self { iso, plan })
            })
        };
        let by_code = || {
            let code = text.strip_prefix('+').unwrap_or(text);
            Self::of_code(code).filter(|country| country.plan.code == code)
        };
        by_iso().or_else(by_code).ok_or_else(|| {
            let reason =
                format!("{text:?} is no country; write its two letters, for example CO, or its calling code");
            ValidationError::new("default_country", reason)
        })
    }
}

impl Serialize for Country {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.iso)
    }
}

impl<'de> Deserialize<'de> for Country {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl PartialEq for Country {
    fn eq(&self, other: &Self) -> bool {
        self.iso == other.iso
    }
}

impl Eq for Country {}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.iso)
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.iso)
    }
}

impl PhoneNumber {
    /// Whether the number is outside the plan of the country that its first digits name. Usual causes: a national number
    /// without its country code, and a digit too many or too few.
    pub fn plan_mismatch(&self) -> Option<PlanMismatch> {
        let digits = self.digits();
        match Plan::of(digits) {
            Some((plan, national)) if plan.has_in_any_spelling(national) => None,
            None if CODES_WITHOUT_COUNTRY.iter().any(|code| digits.starts_with(code)) => None,
            found => Some(PlanMismatch {
                phone: self.clone(),
                country: found.and_then(|(plan, _)| Some(Country { iso: plan.regions.first()?, plan })),
            }),
        }
    }
}

impl PlanMismatch {
    /// The main country of the calling code; `None` if no country has such a code.
    pub fn country(&self) -> Option<Country> {
        self.country
    }

    /// The warning in English.
    pub fn english(&self) -> String {
        let phone = &self.phone;
        match &self.country {
            Some(Country { plan, .. }) => format!(
                "{phone} begins with {}, the country code of {}, and that country has no such number; check that the \
                 number has its country code and all its digits",
                plan.code, plan.english
            ),
            None => format!("{phone} does not begin with the code of a country; begin with the country code"),
        }
    }

    /// The warning in Spanish.
    pub fn spanish(&self) -> String {
        let phone = &self.phone;
        match &self.country {
            Some(Country { plan, .. }) => format!(
                "{phone} empieza por {}, el código de país de {}, y ese país no tiene números así; compruebe que el \
                 número lleva su código de país y todas sus cifras",
                plan.code, plan.spanish
            ),
            None => {
                format!("{phone} no empieza por el código de ningún país; comience con el código de país")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phone(text: &str) -> PhoneNumber {
        text.parse().unwrap()
    }

    #[test]
    fn every_line_of_the_table_is_read() {
        assert_eq!(PLANS.len(), TABLE.lines().count());
        for plan in PLANS.iter() {
            assert!(!plan.rules.is_empty() && !plan.regions.is_empty(), "{}", plan.code);
            assert!(plan.rules.windows(2).all(|pair| pair[0].last < pair[1].first), "{}", plan.code);
            assert!(plan.rules.iter().all(|rule| rule.lengths > 0), "{}", plan.code);
        }
    }

    #[test]
    fn number_of_its_country_has_no_warning() {
        for text in [
            "573001234567",
            "5511961234567",
            "558587654321",
            "5215512345678",
            "525512345678",
            "5491123456789",
            "541123456789",
            "51987654321",
            "56961234567",
            "34612345678",
            "12025550123",
            "18095551234",
            "447911123456",
            "4915123456789",
            "393123456789",
            "376312345",
            "299221234",
            "508412345",
            "29022345",
            "77012345678",
            "22507123456",
            "2250707123456",
            "22997123456",
            "8613812345678",
            "919876543210",
            "882161234567",
            "573987654321", // a mobile number of a range that is not open
        ] {
            assert_eq!(phone(text).plan_mismatch(), None, "{text}");
        }
    }

    #[test]
    fn national_number_is_no_number_of_another_country() {
        for (national, country, name) in [
            ("3001238011", "GR", "Greece"),   // Colombia
            ("5512345678", "BR", "Brazil"),   // Mexico
            ("987654321", "IR", "Iran"),      // Peru
            ("912345678", "IN", "India"),     // Chile
            ("612345678", "AU", "Australia"), // Spain
            ("2025550123", "EG", "Egypt"),    // the United States
            ("8587654321", "CN", ""),         // Brazil; 85 is no code of a country
        ] {
            let mismatch = phone(national).plan_mismatch().unwrap();
            if name.is_empty() {
                assert_eq!(mismatch.country(), None, "{national}");
            } else {
                assert_eq!(mismatch.country().unwrap().iso(), country, "{national}");
            }
            assert!(
                mismatch.english().contains(name) && mismatch.english().contains("country"),
                "{national}"
            );
            assert!(mismatch.spanish().contains("país"), "{national}");
        }
    }

    #[test]
    fn national_number_is_completed_by_its_country_only() {
        for (country, written, read) in [
            ("CO", "3001238011", "573001238011"),
            ("CO", "573001238011", "573001238011"),
            ("57", "(300) 123-8011", "573001238011"),
            ("CO", "+3001238011", "3001238011"),
            ("CO", "003001238011", "3001238011"),
            ("CO", "34612345678", "34612345678"),
            ("MX", "5512345678", "525512345678"),
            ("MX", "5215512345678", "5215512345678"),
            ("BR", "(85) 8765-4321", "558587654321"),
            ("BR", "085 98765-4321", "5585987654321"),
            ("ES", "612 34 56 78", "34612345678"),
            ("US", "1 (202) 555-0123", "12025550123"),
            ("US", "(202) 555-0123", "12025550123"),
            ("DO", "809-555-1234", "18095551234"),
            ("IN", "9198765432", "919198765432"),
            ("KE", "0712 123456", "254712123456"),
            ("RU", "8 912 345-67-89", "79123456789"),
            ("CI", "07 07 12 34 56", "2250707123456"),
            ("IT", "06 1234 5678", "390612345678"),
            ("AD", "312345", "376312345"),
        ] {
            let country: Country = country.parse().unwrap();
            let phone = PhoneNumber::read(written, Some(country)).map(String::from);
            assert_eq!(phone, Ok(read.to_owned()), "{country} {written}");
        }
        let wrong = PhoneNumber::read("0123", Some("CO".parse().unwrap())).unwrap_err();
        assert!(wrong.reason.contains("country code"), "{wrong}");
    }

    #[test]
    fn unknown_country_is_refused() {
        for text in ["", "XX", "Colombia", "999", "5", "+"] {
            assert_eq!(text.parse::<Country>().unwrap_err().field, "default_country", "{text:?}");
        }
        let country: Country = serde_json::from_str("\"co\"").unwrap();
        assert_eq!(serde_json::to_string(&country).unwrap(), "\"CO\"");
    }
}
