//! The fields that requests for a message share, and the draft that they become.

use crate::http::timestamp::RequestTimestamp;
use relevo_domain::{Content, MessageOptions, Recipient, ValidationError};

use super::submit::{MessageDraft, parse_quote};

/// Declares the struct of a request for a message: `phone` first, then its own fields, then `reply_to` (unless the struct is
/// marked `no_reply`), `expires_in` and `send_at`. The documentation of `phone` comes from the call. The struct gets a
/// method `envelope`.
///
/// This is not a struct with `#[serde(flatten)]`: serde reads the fields of such a struct into a buffer first, so an error
/// in one of them would name the body instead of the field (`serde_path_to_error` sees no path).
macro_rules! send_request {
    (
        $(#[$($meta:tt)*])*
        pub struct $name:ident<$life:lifetime> {
            $(#[$($phone:tt)*])*
            phone,
            $($fields:tt)*
        }
    ) => {
        send_request! {
            no_reply
            $(#[$($meta)*])*
            pub struct $name<$life> {
                $(#[$($phone)*])*
                phone,
                $($fields)*
                /// The message to reply to, by WhatsApp's id or the node's.
                reply_to: Option<String>,
            }
            reply_in reply_to
        }
    };
    (
        no_reply
        $(#[$($meta:tt)*])*
        pub struct $name:ident<$life:lifetime> {
            $(#[$($phone:tt)*])*
            phone,
            $($fields:tt)*
        }
        $(reply_in $reply:ident)?
    ) => {
        $(#[$($meta)*])*
        #[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
        pub struct $name<$life> {
            $(#[$($phone)*])*
            #[serde(default, borrow, alias = "to", alias = "jid", alias = "chat_jid", alias = "number")]
            #[schema(value_type = String, required = true, example = "573001234567")]
            phone: $crate::http::phone_text::PhoneText<$life>,
            $($fields)*
            /// Seconds after which the message must no longer be sent, counted from `send_at` if given.
            expires_in: Option<u64>,
            /// Earliest time to send, at most a year from now: RFC 3339 or Unix seconds. Answered with 202.
            #[schema(value_type = Option<String>, example = "2026-01-31T15:00:00Z")]
            send_at: Option<$crate::http::timestamp::RequestTimestamp>,
        }

        impl $name<'_> {
            /// Takes the shared fields out of the request.
            fn envelope(
                &mut self,
                recipients: relevo_domain::RecipientParser,
            ) -> Result<$crate::http::routes::messages::envelope::SendEnvelope, relevo_domain::ValidationError> {
                #[allow(unused_mut, unused_assignments, reason = "a struct marked no_reply has no such field")]
                let mut reply_to = None;
                $(reply_to = self.$reply.take();)?
                Ok($crate::http::routes::messages::envelope::SendEnvelope {
                    to: self.phone.parse(recipients)?,
                    reply_to,
                    expires_in: self.expires_in,
                    send_at: self.send_at,
                })
            }
        }
    };
}

pub(super) use send_request;

/// The fields that every request for a message shares.
#[derive(Debug)]
pub(super) struct SendEnvelope {
    pub to: Recipient,
    pub reply_to: Option<String>,
    /// Seconds after which the message must no longer be sent, from now or from `send_at`.
    pub expires_in: Option<u64>,
    /// The message waits until this moment.
    pub send_at: Option<RequestTimestamp>,
}

impl SendEnvelope {
    /// An envelope of nothing but a recipient.
    pub fn to(to: Recipient) -> Self {
        Self { to, reply_to: None, expires_in: None, send_at: None }
    }
}

/// A message with default options.
///
/// # Errors
///
/// `reply_to` is no id of a message.
pub(super) fn draft(envelope: SendEnvelope, content: Content) -> Result<MessageDraft, ValidationError> {
    Ok(MessageDraft {
        to: envelope.to,
        content,
        quote: parse_quote(envelope.reply_to)?,
        options: MessageOptions::default(),
        expires_in: envelope.expires_in,
        send_at: envelope.send_at,
    })
}
