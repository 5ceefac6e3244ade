//! Skeleton.
use crate::domain::{InstanceNumber, Secret};

/// An account that Meta's webhooks may be about.
#[derive(Debug, Clone)]
pub struct Account {
    pub instance: InstanceNumber,
    pub phone_number_id: String,
    pub app_secret: Option<Secret>,
    pub verify_token: Option<Secret>,
}
