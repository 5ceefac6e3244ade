//! The errors of the core modules as [`ApiError`]s.

use super::ApiError;
use crate::{
    accounts, address_book, bulk, events, inbound, instance, media, queue, relay, suppression, webhook,
};
use relevo_domain::{ErrorKind, ValidationError};

impl From<ValidationError> for ApiError {
    fn from(invalid: ValidationError) -> Self {
        Self::new(ErrorKind::Invalid, invalid.to_string()).with_field(invalid.field)
    }
}

impl From<accounts::Error> for ApiError {
    fn from(error: accounts::Error) -> Self {
        match error {
            accounts::Error::Invalid(invalid) => invalid.into(),
            accounts::Error::WebhookUrl(error) if error.kind() == ErrorKind::Invalid => {
                Self::from(error).with_field("webhook_url")
            }
            accounts::Error::WebhookUrl(error) | accounts::Error::Webhook(error) => error.into(),
            accounts::Error::Instance(error) => error.into(),
            error => Self::from_kind(error.kind(), &error),
        }
    }
}

impl From<instance::Error> for ApiError {
    fn from(error: instance::Error) -> Self {
        match &error {
            instance::Error::Unknown(id) => return Self::unknown_instance(id.as_str()),
            instance::Error::Exists(_) => {
                return Self::from_kind(error.kind(), &error)
                    .with_title("La instancia ya existe")
                    .with_field("instance_id");
            }
            instance::Error::UrlRefused { field, .. } => {
                return Self::from_kind(error.kind(), &error).with_field(*field);
            }
            instance::Error::AlreadyLinked(_) => {
                return Self::from_kind(error.kind(), &error).with_title("La instancia ya está autenticada");
            }
            instance::Error::QrCodeTimeout => return Self::qr_timeout(&error),
            instance::Error::Failed(failure) => return Self::from_failure(failure),
            instance::Error::Media(media::Error::Gone(_)) => return Self::gone(error.to_string()),
            instance::Error::Media(media::Error::Failed(failure)) => return Self::from_failure(failure),
            _ => {}
        }
        match error.invalid() {
            Some(invalid) => invalid.clone().into(),
            None => Self::from_kind(error.kind(), &error),
        }
    }
}

impl From<inbound::Error> for ApiError {
    fn from(error: inbound::Error) -> Self {
        match error {
            inbound::Error::Signature => Self::forbidden(error.to_string()),
            error => Self::from_kind(error.kind(), &error),
        }
    }
}

impl From<queue::Error> for ApiError {
    fn from(error: queue::Error) -> Self {
        Self::from_kind(error.kind(), &error)
    }
}

impl From<events::Error> for ApiError {
    fn from(error: events::Error) -> Self {
        match error {
            events::Error::Cursor(invalid) => invalid.into(),
            error => Self::from_kind(error.kind(), &error),
        }
    }
}

impl From<bulk::Error> for ApiError {
    fn from(error: bulk::Error) -> Self {
        match error {
            bulk::Error::Invalid(invalid) => invalid.into(),
            bulk::Error::Instance(error) => error.into(),
            bulk::Error::File(_) | bulk::Error::Empty => {
                Self::from_kind(error.kind(), &error).with_field("file")
            }
            bulk::Error::Template(_) => Self::from_kind(error.kind(), &error).with_field("message"),
            error => Self::from_kind(error.kind(), &error),
        }
    }
}

impl From<address_book::Error> for ApiError {
    fn from(error: address_book::Error) -> Self {
        match error.invalid() {
            Some(invalid) => invalid.clone().into(),
            None => Self::from_kind(error.kind(), &error),
        }
    }
}

impl From<suppression::Error> for ApiError {
    fn from(error: suppression::Error) -> Self {
        match error.invalid() {
            Some(invalid) => invalid.clone().into(),
            None => Self::from_kind(error.kind(), &error),
        }
    }
}

impl From<relay::Error> for ApiError {
    fn from(error: relay::Error) -> Self {
        Self::from_kind(error.kind(), &error)
    }
}

impl From<webhook::Error> for ApiError {
    fn from(error: webhook::Error) -> Self {
        match (&error, error.invalid()) {
            (_, Some(invalid)) => invalid.clone().into(),
            (webhook::Error::Url(_), None) => Self::from_kind(error.kind(), &error).with_field("url"),
            _ => Self::from_kind(error.kind(), &error),
        }
    }
}
