//! Operations that need the client of a running actor: pairing by QR code or pair code, logout, and read receipts.

use std::time::Duration;

use relevo_domain::{Failure, InstanceId, InstanceState, PhoneNumber, ProviderMessageId, Recipient};
use relevo_provider::MarkReadRequest;

use super::directory::{InstanceView, QrCode, StateView};
use super::supervisor::Msg;
use super::{Error, Handle};

/// Maximum wait for a QR code, as documented.
const QR_CODE_TIMEOUT: Duration = Duration::from_secs(30);

/// Timeout for WhatsApp's answer to other requests.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum time that a logout request waits. Unlinking goes on after it.
const LOGOUT_TIMEOUT: Duration = Duration::from_secs(60);

/// A code to type on the phone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairingCode {
    /// Eight letters and digits.
    pub code: String,
    /// How long the code is valid.
    pub valid_for: Duration,
}

/// A received message to mark as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadMessage {
    pub message: ProviderMessageId,
    /// Chat and sender of the message, if the caller knows them.
    pub chat: Option<Recipient>,
    pub sender: Option<Recipient>,
}

impl Handle {
    /// Connects an instance, unless it should be connected already, is paused or is being logged out.
    ///
    /// # Errors
    ///
    /// The instance does not exist.
    pub async fn connect_if_idle(&self, id: &InstanceId) -> Result<InstanceView, Error> {
        let entry = self.find(id)?;
        if entry.record.wanted.may_connect() { self.connect(id.clone()).await } else { Ok(entry.view()) }
    }

    /// The QR code that a phone can scan now. Begins pairing if it has not begun, and waits for the first code.
    ///
    /// # Errors
    ///
    /// The instance is linked already, it cannot be paired until an operator acts, WhatsApp sent no code in time, or its
    /// provider has no link with a phone.
    pub async fn qr_code(&self, id: &InstanceId) -> Result<QrCode, Error> {
        let entry = self.find(id)?;
        if !entry.record.config.provider.kind().capabilities().keeps_connection {
            return Err(Error::NoLink(entry.record.config.provider.kind()));
        }
        if entry.record.account.is_none() {
            self.connect_if_idle(id).await?;
        }
        let mut state = entry.state.clone();
        let qr_code = async {
            loop {
                let view = state.borrow_and_update().clone();
                // The account is published before the state that follows from it.
                if let Some(account) = &self.find(id)?.record.account {
                    return Err(Error::AlreadyLinked(account.jid.clone()));
                }
                match view {
                    StateView { qr_code: Some(code), .. } => return Ok(code),
                    StateView { state: InstanceState::Connecting | InstanceState::Connected, .. } => {}
                    StateView { state, reason, .. } => return Err(Error::NotConnected { state, reason }),
                }
                // The sender exists as long as the instance does.
                state.changed().await.map_err(|_| Error::Unknown(id.clone()))?;
            }
        };
        tokio::time::timeout(QR_CODE_TIMEOUT, qr_code).await.unwrap_or(Err(Error::QrCodeTimeout))
    }

    /// Asks WhatsApp to prompt the phone with this number for the returned code. Begins pairing if it has not begun.
    ///
    /// # Errors
    ///
    /// Those of [`qr_code`](Self::qr_code); also if WhatsApp refuses or does not answer in time.
    pub async fn request_pairing_code(
        &self,
        id: &InstanceId,
        phone: &PhoneNumber,
    ) -> Result<PairingCode, Error> {
        // A client that has a QR code can also request a pair code.
        self.qr_code(id).await?;
        let client = self.find(id)?.client();
        let device = client.linked().ok_or(Error::NoLink(client.kind()))?;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, device.pair_by_code(phone)).await;
        let pair_code = answer.unwrap_or_else(|_| Err(timeout_failure())).map_err(Error::Failed)?;
        Ok(PairingCode { code: pair_code.code, valid_for: pair_code.valid_for })
    }

    /// Unlinks the device of an instance, also at WhatsApp if it can be reached, and waits for that. The queue is kept.
    ///
    /// # Errors
    ///
    /// The instance does not exist or is being logged out, or its provider has no link with a phone.
    pub async fn logout(&self, id: &InstanceId) -> Result<InstanceView, Error> {
        self.slot.call(|reply| Msg::Logout(id.clone(), reply)).await??;
        let mut state = self.find(id)?.state.clone();
        let ended = state.wait_for(|view| view.state == InstanceState::LoggedOut);
        let _ = tokio::time::timeout(LOGOUT_TIMEOUT, ended).await;
        self.get(id)
    }

    /// Marks a received message as read. `typing` also shows the typing indicator.
    ///
    /// # Errors
    ///
    /// The instance does not exist or is not connected, or WhatsApp refuses or does not answer in time.
    pub async fn mark_read(&self, id: &InstanceId, read: ReadMessage, typing: bool) -> Result<(), Error> {
        let entry = self.find(id)?;
        let StateView { state, reason, .. } = entry.state.borrow().clone();
        if state != InstanceState::Connected {
            return Err(Error::NotConnected { state, reason });
        }
        let (client, ReadMessage { message, chat, sender }) = (entry.client(), read);
        let request = MarkReadRequest { message, chat, sender };
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, client.mark_read(&request, typing)).await;
        answer.unwrap_or_else(|_| Err(timeout_failure())).map_err(Error::Failed)
    }
}

fn timeout_failure() -> Failure {
    Failure::transient("WhatsApp took too long to answer")
}
