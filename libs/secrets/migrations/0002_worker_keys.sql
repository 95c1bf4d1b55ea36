-- SPDX-License-Identifier: Apache-2.0
-- Workers outside the suite open their streams at the worker service, with an API key.
GRANT SELECT (id, tenant, roles, secret_hash, expires_at, revoked_at) ON mainstay.api_keys TO mainstay_worker;
