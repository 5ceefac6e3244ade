//! What actors report, written down, published and told to readers of events.

use serde_json::{Value, json};

use crate::events::{self, Event};
use relevo_domain::{EventKind, InstanceNumber, InstanceState, Reason};
use relevo_provider::LinkedAccount;

use super::actor::Report;
use super::directory::{DesiredState, InstanceRecord, QrCode, StateView};
use super::supervisor::State;

impl State {
    pub(super) async fn on_report(&mut self, number: InstanceNumber, incarnation: u64, report: Report) {
        let Some(entry) = self.instances.get(&number).filter(|entry| entry.incarnation == incarnation) else {
            return;
        };
        let record = entry.directory_entry.record.clone();
        match report {
            Report::Connected(account) => self.on_connected(number, record, account).await,
            Report::Connecting(reason, next_attempt_at) => {
                let view = StateView::new(InstanceState::Connecting, reason);
                self.set_state(number, StateView { next_attempt_at, ..view }).await;
            }
            Report::QrCode(code) => self.on_qr_code(number, code).await,
            Report::Linked(account) => self.on_linked(number, record, account).await,
            Report::Stopped(wanted) => self.on_stopped(number, record, wanted).await,
        }
    }

    async fn on_connected(
        &mut self,
        number: InstanceNumber,
        record: InstanceRecord,
        account: Option<LinkedAccount>,
    ) {
        let (last_connected_at, account) =
            (Some(self.arguments.clock.now()), account.or(record.account.clone()));
        if let Err(error) =
            self.save_record(number, InstanceRecord { last_connected_at, account, ..record }).await
        {
            tracing::warn!(%error, "the moment of connecting could not be written down");
        }
        self.publish_directory();
        let reason = Reason::new("ok", "connected");
        self.set_state(number, StateView::new(InstanceState::Connected, reason)).await;
    }

    async fn on_qr_code(&mut self, number: InstanceNumber, code: QrCode) {
        let now = self.arguments.clock.now();
        let data = json!({
            "qr": code.text,
            "expires_at": code.expires_at.to_string(),
            "expires_in": code.expires_at.since(now).as_secs(),
        });
        let reason = Reason::new("pairing", "scan the code with the phone: WhatsApp, linked devices");
        let view = StateView::new(InstanceState::Connecting, reason);
        self.set_state(number, StateView { qr_code: Some(code), ..view }).await;
        self.emit(number, EventKind::Qr, data).await;
    }

    async fn on_linked(&mut self, number: InstanceNumber, record: InstanceRecord, account: LinkedAccount) {
        tracing::info!(instance = %record.config.id, jid = account.jid, "a phone took the device");
        self.arguments.metrics.record_pairing("linked");
        let data = json!({
            "jid": account.jid, "lid": account.lid, "phone": account.phone(), "name": account.name,
        });
        if let Err(error) =
            self.save_record(number, InstanceRecord { account: Some(account), ..record }).await
        {
            tracing::warn!(%error, "a link could not be written down and will be when it is connected");
        }
        self.publish_directory();
        self.emit(number, EventKind::Paired, data).await;
        let reason = Reason::new("paired", "a phone took it; the connection follows");
        self.set_state(number, StateView::new(InstanceState::Connecting, reason)).await;
    }

    /// Nothing goes on before somebody cares; the queue is kept.
    async fn on_stopped(&mut self, number: InstanceNumber, record: InstanceRecord, wanted: DesiredState) {
        let Some((state, reason)) = wanted.idle_state() else { return };
        tracing::warn!(instance = %record.config.id, state = state.as_str(), reason = %reason.text, "instance stopped; its queue is kept");
        if matches!(wanted, DesiredState::Unpaired(_)) {
            self.arguments.metrics.record_pairing(if reason.code == "pairing_timeout" {
                "timed_out"
            } else {
                "failed"
            });
        }
        self.stop(number, "WhatsApp wants nothing of it, or no phone did");
        // Its keys are gone, or were nobody's.
        let gone = matches!(wanted, DesiredState::LoggedOut(_) | DesiredState::Unpaired(_));
        let account = record.account.clone().filter(|_| !gone);
        let record = InstanceRecord { wanted, account, updated_at: self.arguments.clock.now(), ..record };
        if let Err(error) = self.save_record(number, record).await {
            tracing::warn!(%error, "the state of an instance could not be written down and will be found out again");
        }
        self.publish_directory();
        self.set_state(number, StateView::new(state, reason)).await;
    }

    /// Publishes what an instance is doing, and announces it when readers of events would want to know.
    pub async fn set_state(&mut self, number: InstanceNumber, view: StateView) {
        let Some(entry) = self.instances.get(&number) else { return };
        let before = entry.state.borrow().state;
        let StateView { state, reason, next_attempt_at, .. } = view.clone();
        entry.state.send_modify(|shown| *shown = StateView { restarts: shown.restarts, ..view });
        if before == state {
            return;
        }
        tracing::info!(instance = %entry.directory_entry.record.config.id, state = state.as_str(), reason = reason.code, "instance state");
        let word = match state {
            InstanceState::Connected => "connected",
            InstanceState::LoggedOut => "logged_out",
            InstanceState::Connecting if before != InstanceState::Connected => return,
            InstanceState::Created => return,
            _ => "disconnected",
        };
        let mut data =
            json!({ "status": word, "state": state.as_str(), "reason": reason.code, "detail": reason.text });
        if let (Some(at), Some(fields)) = (next_attempt_at, data.as_object_mut()) {
            let pause = at.since(self.arguments.clock.now());
            fields.insert("retry_in".to_owned(), json!(pause.as_secs_f64()));
        }
        self.emit(number, EventKind::Status, data).await;
    }

    async fn emit(&self, number: InstanceNumber, kind: EventKind, data: Value) {
        let event = Event { kind, at: self.arguments.clock.now(), data };
        self.arguments.store.submit(move |tx| events::append(tx, number, &event), |_| {}).await;
    }
}
