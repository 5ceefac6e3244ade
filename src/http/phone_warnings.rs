//! The warning about a number that its country does not have. Such a number is sent: plans change, and the list of them
//! may be behind.

use serde::Serialize;
use utoipa::ToSchema;

use relevo_domain::{PlanMismatch, Recipient};

/// A warning: the number does not fit the numbering plan of the country that its first digits name.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PhoneWarning {
    /// The ISO code of the country; missing if no country has such a code.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "GR")]
    country: Option<&'static str>,
    /// What is wrong, and what to check.
    message: String,
}

impl PhoneWarning {
    /// The warning about a recipient in English, if there is one.
    pub fn english(to: &Recipient) -> Option<Self> {
        let mismatch = to.phone()?.plan_mismatch()?;
        Some(Self { country: iso(&mismatch), message: mismatch.english() })
    }

    /// The warning about a recipient in Spanish, if there is one.
    pub fn spanish(to: &Recipient) -> Option<Self> {
        to.phone()?.plan_mismatch().as_ref().map(Self::from_mismatch)
    }

    /// The warning in Spanish.
    pub fn from_mismatch(mismatch: &PlanMismatch) -> Self {
        Self { country: iso(mismatch), message: mismatch.spanish() }
    }
}

fn iso(mismatch: &PlanMismatch) -> Option<&'static str> {
    mismatch.country().map(|country| country.iso())
}
