//! How the link between a device and its account stands, and what that means for the instance.

use std::time::Duration;

use ractor::ActorProcessingErr;

use relevo_domain::{Reason, Timestamp};
use relevo_provider::{LinkNews, Refused};

use super::actor::{Report, State};
use super::directory::{Code, Wanted};

impl State {
    /// The client says how its link stands.
    pub fn heard(&mut self, news: LinkNews) {
        if self.over {
            return;
        }
        if let LinkNews::Connected(account) = news {
            return self.connect(Some(account));
        }
        if self.connected {
            self.arguments.metrics.client_lost("connection");
        }
        self.connected = false;
        self.stop_probing();
        // What has not begun waits in the queue instead of failing one after the other.
        self.give_back();
        let report = meaning(news, self.arguments.clock.now());
        self.over = matches!(report, Report::Over(_));
        (self.arguments.report)(report);
    }

    /// The client ended without saying that it would.
    pub fn deaf(&self) -> Result<(), ActorProcessingErr> {
        if self.over { Ok(()) } else { Err("the client of the linked device ended without a word".into()) }
    }
}

/// What news of the link mean for the instance.
fn meaning(news: LinkNews, now: Timestamp) -> Report {
    match news {
        LinkNews::Connecting => Report::Connecting(Reason::new("connecting", "connecting to WhatsApp"), None),
        LinkNews::Code { qr, lasts } => Report::Code(Code { qr, expires_at: now + lasts }),
        LinkNews::CodesExhausted => Report::Over(Wanted::Unpaired(Reason::new(
            "pairing_timeout",
            "no phone scanned a code in time; ask for a new one: GET /instances/{id}/qr",
        ))),
        LinkNews::Linked(account) => Report::Linked(account),
        LinkNews::Connected(account) => Report::Connected(Some(account)),
        LinkNews::Disconnected { why, retry_in } => {
            let text = format!("{why}; the next attempt is in {}", seconds(retry_in));
            Report::Connecting(Reason::new("unreachable", text), Some(now + retry_in))
        }
        LinkNews::Refused(refused) => Report::Over(rest_after(refused)),
    }
}

/// What an instance is that WhatsApp wants nothing of. Nobody tries again before somebody asks for it.
fn rest_after(refused: Refused) -> Wanted {
    match refused {
        Refused::LoggedOut => Wanted::LoggedOut(Reason::new(
            "logged_out",
            "the phone or WhatsApp removed this device; link it again: GET /instances/{id}/qr",
        )),
        Refused::Replaced => Wanted::Paused(Reason::new(
            "replaced",
            "another client connected with the keys of this device; stop that one, then resume the instance",
        )),
        Refused::Banned { until, reason } => {
            let text = match until {
                Some(until) => {
                    format!("WhatsApp banned the account until {until}: {reason}; resume it after that")
                }
                None => format!(
                    "WhatsApp banned the account: {reason}; settle it on the phone, then resume the instance"
                ),
            };
            Wanted::Paused(Reason::new("banned", text))
        }
        Refused::Outdated => Wanted::Paused(Reason::new(
            "client_outdated",
            "WhatsApp no longer speaks with this version of WhatsApp Web; set linked_device.version to a newer one, \
             or update relevo, then resume the instance",
        )),
        Refused::NotPaired(cause) => {
            let text = format!("the phone could not be linked: {cause}; try again: GET /instances/{{id}}/qr");
            Wanted::Unpaired(Reason::new("pairing_failed", text))
        }
    }
}

/// A pause in words.
fn seconds(pause: Duration) -> String {
    format!("{:.1} s", pause.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use relevo_domain::InstanceState;

    fn rest(news: LinkNews) -> (InstanceState, Reason) {
        match meaning(news, Timestamp(0)) {
            Report::Over(wanted) => wanted.rest().unwrap(),
            report => panic!("{report:?}"),
        }
    }

    #[test]
    fn each_way_in_which_whatsapp_ends_a_link_is_a_state_of_its_own() {
        use InstanceState::{Disconnected, LoggedOut, Paused};
        let banned = |until| Refused::Banned { until, reason: "spam".to_owned() };
        for (refused, state, code) in [
            (Refused::LoggedOut, LoggedOut, "logged_out"),
            (Refused::Replaced, Paused, "replaced"),
            (banned(None), Paused, "banned"),
            (Refused::Outdated, Paused, "client_outdated"),
            (Refused::NotPaired("401".to_owned()), Disconnected, "pairing_failed"),
        ] {
            let (found, reason) = rest(LinkNews::Refused(refused));
            assert_eq!((found, reason.code.as_str()), (state, code));
        }
        let (state, reason) = rest(LinkNews::CodesExhausted);
        assert_eq!((state, reason.code.as_str()), (Disconnected, "pairing_timeout"));
        let (_, reason) = rest(LinkNews::Refused(banned(Some(Timestamp(1_763_800_000_000)))));
        assert!(reason.text.contains("until 2025-11-22T08:26:40.000Z: spam"), "{}", reason.text);
    }

    #[test]
    fn a_lost_connection_says_when_it_is_tried_again() {
        let lost = LinkNews::Disconnected { why: "reset".to_owned(), retry_in: Duration::from_millis(2500) };
        let Report::Connecting(reason, next) = meaning(lost, Timestamp(1_000)) else { panic!() };
        assert_eq!((reason.code.as_str(), next), ("unreachable", Some(Timestamp(3_500))));
        assert_eq!(reason.text, "reset; the next attempt is in 2.5 s");
    }

    #[test]
    fn a_code_is_good_for_as_long_as_it_lasts() {
        let code = LinkNews::Code { qr: "2@x".to_owned(), lasts: Duration::from_secs(20) };
        let Report::Code(code) = meaning(code, Timestamp(1_000)) else { panic!() };
        assert_eq!(code, Code { qr: "2@x".to_owned(), expires_at: Timestamp(21_000) });
    }
}
