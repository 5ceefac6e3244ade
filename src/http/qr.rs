//! QR codes as PNG and SVG.

use std::borrow::Cow;

use png::{BitDepth, ColorType, Encoder, EncodingError};
use qrcode::render::svg;
use qrcode::{Color, QrCode};

/// The width and height of the documented image, in pixels.
const IMAGE_SIDE: usize = 256;

/// Light modules around the code (ISO/IEC 18004 requires four).
const QUIET_ZONE: usize = 4;

/// A text that could not be encoded.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the text does not fit a QR code: {0}")]
    TooLong(#[from] qrcode::types::QrError),
    #[error("the image could not be written: {0}")]
    Image(#[from] EncodingError),
}

/// A black and white PNG of 256 by 256 pixels.
///
/// # Errors
///
/// The text is too long for a QR code, or the image could not be encoded.
pub(super) fn png(text: &str) -> Result<Vec<u8>, Error> {
    let code = QrCode::new(text)?;
    let modules = code.width();
    // Whole pixels for each module, so that every edge is sharp; the rest is margin. The largest code has 177
    // modules, so each has at least one pixel.
    let scale = (IMAGE_SIDE / (modules + 2 * QUIET_ZONE)).max(1);
    let margin = IMAGE_SIDE.saturating_sub(modules * scale) / 2;
    let colors = code.to_colors();
    let is_dark = |x: usize, y: usize| {
        let (column, row) = (x.checked_sub(margin)? / scale, y.checked_sub(margin)? / scale);
        let color = (column < modules).then(|| colors.get(row * modules + column)).flatten()?;
        Some(*color == Color::Dark)
    };
    // One bit a pixel, eight a byte, the leftmost in the highest bit; 1 is white.
    let byte = |first: usize, y: usize| {
        (0..8).fold(0_u8, |byte, bit| (byte << 1) | u8::from(!is_dark(first + bit, y).unwrap_or(false)))
    };
    let pixels: Vec<u8> = (0..IMAGE_SIDE)
        .flat_map(|y| (0..IMAGE_SIDE).step_by(8).map(move |x| (x, y)))
        .map(|(x, y)| byte(x, y))
        .collect();
    let mut image = Vec::new();
    let side = u32::try_from(IMAGE_SIDE).unwrap_or(u32::MAX);
    let mut encoder = Encoder::new(&mut image, side, side);
    encoder.set_color(ColorType::Grayscale);
    encoder.set_depth(BitDepth::One);
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(image)
}

/// The code as SVG.
///
/// # Errors
///
/// The text is too long for a QR code.
pub(super) fn svg(text: &str) -> Result<String, Error> {
    let code = QrCode::new(text)?;
    Ok(code.render::<svg::Color<'_>>().min_dimensions(256, 256).build())
}

/// The formats of a QR code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QrFormat {
    /// The documented format: JSON with the image in base64.
    Json,
    Png,
    Svg,
    /// The text of the code.
    Text,
}

impl QrFormat {
    /// The first supported format in an `Accept` header; JSON when it names none.
    pub fn from_accept(header: &str) -> Self {
        let named = header.split(',').filter_map(|kind| {
            let kind: Cow<'_, str> = kind.split(';').next().unwrap_or_default().trim().to_lowercase().into();
            match &*kind {
                "application/json" => Some(QrFormat::Json),
                "image/png" => Some(QrFormat::Png),
                "image/svg+xml" => Some(QrFormat::Svg),
                "text/plain" => Some(QrFormat::Text),
                _ => None,
            }
        });
        named.into_iter().next().unwrap_or(QrFormat::Json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// About as long as the codes of WhatsApp.
    fn text() -> String {
        "2@".to_owned() + &"AbC123+/=,".repeat(23)
    }

    /// The modules of the image, row by row.
    fn modules(image: &[u8]) -> Vec<Vec<bool>> {
        let mut reader = png::Decoder::new(std::io::Cursor::new(image)).read_info().unwrap();
        let (info, size) = (reader.info().clone(), reader.output_buffer_size().unwrap());
        assert_eq!((info.width, info.height, info.bit_depth), (256, 256, BitDepth::One));
        let mut pixels = vec![0; size];
        reader.next_frame(&mut pixels).unwrap();
        let dark = |x: usize, y: usize| pixels[y * 32 + x / 8] >> (7 - x % 8) & 1 == 0;
        let first = (0..256).find(|&at| dark(at, at)).unwrap();
        // A finder pattern is seven modules wide.
        let scale = (first..256).take_while(|&x| dark(x, first)).count() / 7;
        let count = (256 - 2 * first).div_ceil(scale);
        let middle = |n: usize| first + n * scale + scale / 2;
        (0..count).map(|row| (0..count).map(|column| dark(middle(column), middle(row))).collect()).collect()
    }

    #[test]
    fn png_shows_every_module_and_leaves_a_quiet_zone() {
        let image = png(&text()).unwrap();
        let code = QrCode::new(text()).unwrap();
        let colors = code.to_colors();
        let expected: Vec<Vec<bool>> =
            colors.chunks(code.width()).map(|row| row.iter().map(|c| *c == Color::Dark).collect()).collect();
        let found = modules(&image);
        let shown: Vec<Vec<bool>> =
            found.iter().take(code.width()).map(|row| row[..code.width()].to_vec()).collect();
        assert_eq!(shown, expected);
        assert!(image.len() < 8_000, "{} bytes", image.len());
    }

    #[test]
    fn svg_is_drawn_and_too_long_a_text_is_an_error() {
        assert!(svg(&text()).unwrap().contains("<svg"));
        assert!(png(&"x".repeat(3000)).is_err());
    }

    #[test]
    fn first_supported_format_of_accept_wins() {
        for (accept, form) in [
            ("", QrFormat::Json),
            ("*/*", QrFormat::Json),
            ("image/png", QrFormat::Png),
            ("text/html, image/svg+xml;q=0.9, image/png", QrFormat::Svg),
            ("TEXT/PLAIN", QrFormat::Text),
            ("application/json, image/png", QrFormat::Json),
        ] {
            assert_eq!(QrFormat::from_accept(accept), form, "{accept}");
        }
    }
}
