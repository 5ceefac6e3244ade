//! The countries where WhatsApp knows a mobile number in two spellings.
//!
//! WhatsApp matches by account: a number that was registered under one spelling is named by it, whichever the business
//! stored.
//!
//! - **Brazil.** Mobile numbers (local part 6 to 9) got a ninth digit, 9, from 2012 to 2016.
//!   <https://developers.facebook.com/docs/whatsapp/cloud-api/reference/phone-numbers#brazil-phone-numbers>
//! - **Mexico.** Since 2019 numbers are dialled without the 1 behind 52.
//!   <https://github.com/chatwoot/chatwoot/pull/14174>
//! - **Argentina.** Mobile numbers are dialled from abroad with a 9 behind 54, and within the country without it.
//!   <https://en.wikipedia.org/wiki/Telephone_numbers_in_Argentina>
//! - **Côte d'Ivoire.** In 2021 mobile numbers got two digits in front, by operator; older accounts keep theirs.
//!   <https://github.com/devlikeapro/waha/issues/1894>
//! - **Benin.** In 2024 numbers got `01` in front. <https://github.com/mobi/telephone_number/issues/138>

/// The other form of a national number, if it has two.
type Rule = fn(&str) -> Option<String>;

/// The rules by calling code.
const RULES: [(&str, Rule); 5] =
    [("55", brazil), ("52", mexico), ("54", argentina), ("225", ivory_coast), ("229", benin)];

/// The other spelling of the digits of a mobile number. Its other spelling is the given one.
pub(super) fn other_spelling(digits: &str) -> Option<String> {
    let (code, national, rule) =
        RULES.iter().find_map(|(code, rule)| Some((code, digits.strip_prefix(code)?, rule)))?;
    Some(format!("{code}{}", rule(national)?))
}

/// Area code (two digits), then nine digits that begin with 9 and 6 to 9, or eight that begin with 6 to 9.
fn brazil(national: &str) -> Option<String> {
    let (area, local) = national.split_at_checked(2).filter(|(area, _)| !area.contains('0'))?;
    let is_old = |local: &str| local.len() == 8 && local.starts_with(['6', '7', '8', '9']);
    match local.strip_prefix('9').filter(|old| is_old(old)) {
        Some(old) => Some(format!("{area}{old}")),
        None => is_old(local).then(|| format!("{area}9{local}")),
    }
}

/// Ten digits that begin with 2 to 9, with or without a 1 in front.
fn mexico(national: &str) -> Option<String> {
    with_or_without(national, "1", |number| number.len() == 10 && !number.starts_with(['0', '1']))
}

/// Ten digits that begin with the area codes 1 to 3, with or without a 9 in front.
fn argentina(national: &str) -> Option<String> {
    with_or_without(national, "9", |number| number.len() == 10 && number.starts_with(['1', '2', '3']))
}

/// Eight digits, with or without `01` in front; 2 begins fixed lines.
fn benin(national: &str) -> Option<String> {
    with_or_without(national, "01", |number| number.len() == 8 && number.starts_with(['4', '5', '6', '9']))
}

/// Eight digits, with or without the prefix of their operator, which the second digit names; 2 and 3 begin fixed lines.
fn ivory_coast(national: &str) -> Option<String> {
    let old = if national.len() == 10 { national.get(2..)? } else { national };
    if old.len() != 8 || old.starts_with(['2', '3']) {
        return None;
    }
    let operator = match old.as_bytes().get(1)? {
        b'0'..=b'3' => "01",
        b'4'..=b'6' => "05",
        _ => "07",
    };
    with_or_without(national, operator, |number| number.len() == 8)
}

fn with_or_without(national: &str, prefix: &str, is_number: impl Fn(&str) -> bool) -> Option<String> {
    match national.strip_prefix(prefix).filter(|rest| is_number(rest)) {
        Some(rest) => Some(rest.to_owned()),
        None => is_number(national).then(|| format!("{prefix}{national}")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_spellings_of_a_mobile_number_are_known() {
        for (one, other) in [
            ("5585987654321", "558587654321"),
            ("5571991234567", "557191234567"),
            ("5511961234567", "551161234567"),
            ("5215512345678", "525512345678"),
            ("5491123456789", "541123456789"),
            ("5493512345678", "543512345678"),
            ("2250707123456", "22507123456"),
            ("2250545123456", "22545123456"),
            ("2250102123456", "22502123456"),
            ("2290197123456", "22997123456"),
        ] {
            assert_eq!(other_spelling(one).as_deref(), Some(other), "{one}");
            assert_eq!(other_spelling(other).as_deref(), Some(one), "{other}");
        }
    }

    #[test]
    fn other_numbers_have_one_spelling() {
        for digits in [
            "551132345678",   // a landline in Brazil
            "5511933334444",  // a mobile number with no old form
            "550012345678",   // no area code
            "52155123456789", // too long
            "548001234567",   // a free number in Argentina
            "2252721234567",  // a landline in Côte d'Ivoire
            "22521234567",
            "2250147123456", // given out after 2021: 47 was another operator's
            "22921123456",
            "573001234567",
            "",
        ] {
            assert_eq!(other_spelling(digits), None, "{digits}");
        }
    }

    proptest! {
        #[test]
        fn other_spelling_is_mutual(digits in "(55|52|54|225|229)[0-9]{6,12}") {
            if let Some(other) = other_spelling(&digits) {
                prop_assert_ne!(&other, &digits);
                prop_assert_eq!(other_spelling(&other), Some(digits));
            }
        }
    }
}
