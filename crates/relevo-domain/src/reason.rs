//! The reason codes of instance states: one definition of each code, what happened, and what the operator does.
//!
//! The codes are stable: programs compare them, and records on the disk contain them. `docs/reasons.md` is generated from
//! this file; a test compares the two.

/// Defines [`ReasonCode`] from one table, so that no code is without its texts.
macro_rules! reason_codes {
    ($($variant:ident = $code:literal { happened: $happened:literal, action: $action:literal })*) => {
        /// A stable code that says why an instance is in its state.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ReasonCode {
            $(#[doc = $happened] $variant,)*
        }

        impl ReasonCode {
            /// Every code, in the order of `docs/reasons.md`.
            pub const ALL: &[ReasonCode] = &[$(ReasonCode::$variant,)*];

            /// The code in the API, in events and on the disk.
            pub const fn as_str(self) -> &'static str {
                match self { $(ReasonCode::$variant => $code,)* }
            }

            /// What happened.
            pub const fn what_happened(self) -> &'static str {
                match self { $(ReasonCode::$variant => $happened,)* }
            }

            /// What the operator does.
            pub const fn what_to_do(self) -> &'static str {
                match self { $(ReasonCode::$variant => $action,)* }
            }
        }
    };
}

reason_codes! {
    Created = "created" {
        happened: "The instance exists and was never asked to connect.",
        action: "Connect it (`POST /instances/{id}/connect`), or pair a linked device (`GET /instances/{id}/qr`)."
    }
    Starting = "starting" {
        happened: "The node is starting the client of the instance.",
        action: "Nothing. `ok`, or another reason, follows."
    }
    Connecting = "connecting" {
        happened: "The client of a linked device is opening its connection to WhatsApp.",
        action: "Nothing. `ok`, or another reason, follows."
    }
    Connected = "ok" {
        happened: "The instance is connected and sends messages.",
        action: "Nothing."
    }
    Unreachable = "unreachable" {
        happened: "WhatsApp cannot be reached: the connection was lost, or a health check of an instance that was not \
                   connected yet failed. The text contains the cause.",
        action: "Nothing if it passes: the node tries again by itself, and the queue is kept. If it stays, check the \
                 network, the proxy and the firewall of the node, and whether WhatsApp has an outage."
    }
    Throttled = "throttled" {
        happened: "The instance is connected, and WhatsApp throttles its number: nothing is sent until the time in \
                   `next_attempt_at`, an hour at most. The text contains the cause.",
        action: "Nothing: sending goes on by itself, and the queue is kept. If it repeats, lower the instance's \
                 `rate_limit`, or ask Meta for a higher throughput."
    }
    Restarting = "restarting" {
        happened: "The client of the instance stopped unexpectedly. The node restarts it after a delay that grows with \
                   each restart. The text contains the cause.",
        action: "Nothing if it passes. If it repeats, read the log of the instance and report the cause as a defect."
    }
    Zombie = "zombie" {
        happened: "The client was connected and missed its health checks in a row. The node replaces it.",
        action: "Nothing if it passes. If it repeats, check the network between the node and WhatsApp for connections \
                 that are dropped without being closed."
    }
    RestartLimit = "restart_limit" {
        happened: "The client stopped more often within one minute than `instance.restart_limit` allows. The node \
                   restarts it no more; the queue is kept.",
        action: "Read the cause in the text and in the log, remove it, then restart the instance \
                 (`POST /instances/{id}/restart`)."
    }
    Requested = "requested" {
        happened: "The instance was disconnected or logged out on request.",
        action: "Connect it again when it should send. A device that was logged out must be linked again \
                 (`GET /instances/{id}/qr`)."
    }
    AuthRejected = "auth_rejected" {
        happened: "WhatsApp rejected the credentials of the instance. It is paused; the queue is kept.",
        action: "Update the instance with new credentials, which resumes it (`PUT /instances/{id}`). If the old ones \
                 work again, resume the instance (`POST /instances/{id}/resume`)."
    }
    AccountBlocked = "account_blocked" {
        happened: "Meta blocked the account. The instance is paused; the queue is kept.",
        action: "Resolve the restriction with Meta, then resume the instance (`POST /instances/{id}/resume`)."
    }
    Pairing = "pairing" {
        happened: "A QR code is ready to be scanned.",
        action: "Scan the code with the phone: WhatsApp, linked devices."
    }
    Paired = "paired" {
        happened: "A phone linked the device. The connection follows.",
        action: "Nothing."
    }
    PairingTimeout = "pairing_timeout" {
        happened: "No phone scanned a QR code in time, and WhatsApp offers no more codes. Pairing has ended.",
        action: "Request a new code (`GET /instances/{id}/qr`) and scan it within its validity."
    }
    PairingFailed = "pairing_failed" {
        happened: "A phone scanned the code, and the device could not be linked. The text contains the cause.",
        action: "Request a new code (`GET /instances/{id}/qr`). A phone that has the maximum number of linked devices \
                 must remove one first."
    }
    LoggingOut = "logging_out" {
        happened: "The device is being unlinked from the phone on request. Other commands are refused meanwhile.",
        action: "Wait for the state `logged_out`. If WhatsApp cannot be reached, also remove the device on the phone."
    }
    LoggedOut = "logged_out" {
        happened: "The phone or WhatsApp removed the linked device. The queue is kept.",
        action: "Link the device again (`GET /instances/{id}/qr`)."
    }
    Replaced = "replaced" {
        happened: "Another client connected with the keys of this device. The instance is paused, so that the two do not \
                   disconnect each other.",
        action: "Stop the other client, for example a second node on a copy of the data folder, then resume \
                 the instance (`POST /instances/{id}/resume`)."
    }
    Banned = "banned" {
        happened: "WhatsApp banned the account. The text contains the cause, and the end of a temporary ban.",
        action: "Wait for the end of a temporary ban, or appeal on the phone; then resume the instance \
                 (`POST /instances/{id}/resume`)."
    }
    ClientOutdated = "client_outdated" {
        happened: "WhatsApp no longer supports the version of WhatsApp Web that the node uses. The instance is paused.",
        action: "Set `linked_device.version` to a newer version, or update relevo, then resume the instance \
                 (`POST /instances/{id}/resume`)."
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fmt::Write;
    use std::fs;

    use super::*;

    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reasons.md");

    fn page() -> String {
        let mut page = "# Reasons\n\nEach state of an instance has a reason: `reason.code` for programs, `reason.text` for people. \
                        `GET /instances/{id}` shows both; `status` events carry them as `reason` and `detail`. The codes are \
                        stable. A node may show a code that is not on this page, if a newer version has written it to the data \
                        folder.\n\nThis page is generated from `crates/relevo-domain/src/reason.rs`. To rewrite it: `cargo test -p \
                        relevo-domain -- --ignored rewrite_reasons_page`.\n"
            .to_owned();
        for code in ReasonCode::ALL {
            let (happened, action) = (code.what_happened(), code.what_to_do());
            write!(
                page,
                "\n## `{}`\n\n**What happened:** {happened}\n\n**What to do:** {action}\n",
                code.as_str()
            )
            .unwrap();
        }
        page
    }

    #[test]
    fn reason_codes_are_distinct_words() {
        let codes: HashSet<_> = ReasonCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(codes.len(), ReasonCode::ALL.len());
        assert!(
            codes.iter().all(|code| code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')),
            "{codes:?}"
        );
    }

    #[test]
    fn reasons_page_describes_every_code() {
        let written = fs::read_to_string(PAGE).unwrap_or_default();
        assert!(
            written == page(),
            "docs/reasons.md differs from ReasonCode; rewrite it: cargo test -p relevo-domain -- --ignored \
             rewrite_reasons_page"
        );
    }

    #[test]
    #[ignore = "writes docs/reasons.md"]
    fn rewrite_reasons_page() {
        fs::write(PAGE, page()).unwrap();
    }
}
