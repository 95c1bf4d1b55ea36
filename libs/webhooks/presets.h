// SPDX-License-Identifier: Apache-2.0
// The well-known senders, one row each. Adding a sender is adding a row; the words are those of
// catalog::SignatureScheme (README.md).
#pragma once

#include <string_view>

#include "absl/types/span.h"

namespace mainstay::webhooks {

struct Preset {
  std::string_view name, algorithm, signed_content, signature_header, header_format, signature_key, encoding,
      key_encoding;
  // "" where the sender signs no time.
  std::string_view timestamp, timestamp_unit;
  int past_seconds, future_seconds;
  // Headers that a real delivery always has, comma separated.
  std::string_view required_headers;
  std::string_view event_id, event_type, event_time, event_time_unit;
};

// Sorted by name. Where a sender's own library has no window or a one-sided one, ours is stricter: 300 s both ways.
inline constexpr Preset kPresets[] = {
    {"calendly", "hmac-sha256", "{sig:t}.{body}", "calendly-webhook-signature", "pairs:,", "v1", "hex", "text", "sig:t",
     "s", 180, 180, "", "", "json:event", "json:created_at", "iso8601"},
    {"discord", "ed25519", "{header:x-signature-timestamp}{body}", "x-signature-ed25519", "plain", "", "hex", "hex",
     "header:x-signature-timestamp", "s", 300, 300, "", "json:id", "json:type", "", ""},
    {"github", "hmac-sha256", "{body}", "x-hub-signature-256", "prefix:sha256=", "", "hex", "text", "", "", 0, 0, "",
     "header:x-github-delivery", "header:x-github-event", "", ""},
    {"hubspot-v1", "sha256", "{secret}{body}", "x-hubspot-signature", "plain", "", "hex", "text", "", "", 0, 0, "",
     "json:0.eventId", "json:0.subscriptionType", "json:0.occurredAt", "ms"},
    {"hubspot-v2", "sha256", "{secret}{method}{url}{body}", "x-hubspot-signature", "plain", "", "hex", "text", "", "",
     0, 0, "", "json:0.eventId", "json:0.subscriptionType", "json:0.occurredAt", "ms"},
    {"hubspot-v3", "hmac-sha256", "{method}{url}{body}{header:x-hubspot-request-timestamp}", "x-hubspot-signature-v3",
     "plain", "", "base64", "text", "header:x-hubspot-request-timestamp", "ms", 300, 300, "", "json:0.eventId",
     "json:0.subscriptionType", "json:0.occurredAt", "ms"},
    {"line", "hmac-sha256", "{body}", "x-line-signature", "plain", "", "base64", "text", "", "", 0, 0, "",
     "json:events.0.webhookEventId", "json:events.0.type", "json:events.0.timestamp", "ms"},
    {"linear", "hmac-sha256", "{body}", "linear-signature", "plain", "", "hex", "text", "json:webhookTimestamp", "ms",
     60, 60, "", "header:linear-delivery", "json:type", "json:webhookTimestamp", "ms"},
    {"mux", "hmac-sha256", "{sig:t}.{body}", "mux-signature", "pairs:,", "v1", "hex", "text", "sig:t", "s", 300, 300,
     "", "json:id", "json:type", "json:created_at", "iso8601"},
    {"paddle", "hmac-sha256", "{sig:ts}:{body}", "paddle-signature", "pairs:;", "h1", "hex", "text", "sig:ts", "s", 300,
     300, "", "json:event_id", "json:event_type", "json:occurred_at", "iso8601"},
    {"razorpay", "hmac-sha256", "{body}", "x-razorpay-signature", "plain", "", "hex", "text", "", "", 0, 0, "",
     "header:x-razorpay-event-id", "json:event", "json:created_at", "s"},
    {"shopify", "hmac-sha256", "{body}", "x-shopify-hmac-sha256", "plain", "", "base64", "text", "", "", 0, 0,
     "x-shopify-topic,x-shopify-shop-domain,x-shopify-api-version,x-shopify-webhook-id", "header:x-shopify-webhook-id",
     "header:x-shopify-topic", "header:x-shopify-triggered-at", "iso8601"},
    {"slack", "hmac-sha256", "v0:{header:x-slack-request-timestamp}:{body}", "x-slack-signature", "prefix:v0=", "",
     "hex", "text", "header:x-slack-request-timestamp", "s", 300, 300, "", "json:event_id", "json:event.type|json:type",
     "json:event_time", "s"},
    {"square", "hmac-sha256", "{url}{body}", "x-square-hmacsha256-signature", "plain", "", "base64", "text", "", "", 0,
     0, "", "json:event_id", "json:type", "json:created_at", "iso8601"},
    {"standard-webhooks", "hmac-sha256", "{header:webhook-id}.{header:webhook-timestamp}.{body}", "webhook-signature",
     "versions: ", "v1", "base64", "whsec-base64", "header:webhook-timestamp", "s", 300, 300, "", "header:webhook-id",
     "json:type", "json:timestamp", "iso8601"},
    {"stripe", "hmac-sha256", "{sig:t}.{body}", "stripe-signature", "pairs:,", "v1", "hex", "text", "sig:t", "s", 300,
     300, "", "json:id", "json:type", "json:created", "s"},
    {"svix", "hmac-sha256", "{header:svix-id|webhook-id}.{header:svix-timestamp|webhook-timestamp}.{body}",
     "svix-signature|webhook-signature", "versions: ", "v1", "base64", "whsec-base64",
     "header:svix-timestamp|webhook-timestamp", "s", 300, 300, "", "header:svix-id|header:webhook-id", "json:type",
     "json:timestamp", "iso8601"},
    {"telnyx", "ed25519", "{header:telnyx-timestamp}|{body}", "telnyx-signature-ed25519", "plain", "", "base64",
     "base64", "header:telnyx-timestamp", "s", 300, 300, "", "json:data.id", "json:data.event_type",
     "json:data.occurred_at", "iso8601"},
    {"typeform", "hmac-sha256", "{body}", "typeform-signature", "prefix:sha256=", "", "base64", "text", "", "", 0, 0,
     "", "json:event_id", "json:event_type", "", ""},
    {"workos", "hmac-sha256", "{sig:t}.{body}", "workos-signature", "pairs-trim:,", "v1", "hex", "text", "sig:t", "ms",
     180, 180, "", "json:id", "json:event", "json:created_at", "iso8601"},
    {"zoom", "hmac-sha256", "v0:{header:x-zm-request-timestamp}:{body}", "x-zm-signature", "prefix:v0=", "", "hex",
     "text", "header:x-zm-request-timestamp", "s", 300, 300, "", "", "json:event", "json:event_ts", "ms"},
};

}  // namespace mainstay::webhooks
