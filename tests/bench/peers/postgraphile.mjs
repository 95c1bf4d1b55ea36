// SPDX-License-Identifier: Apache-2.0
// The peer of expanded pages: PostGraphile 4 over the demo's schema, in its recommended production settings, with the plugin that its documentation names for filters.
import http from 'node:http';
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
const { postgraphile } = require('postgraphile');
const filters = require('postgraphile-plugin-connection-filter');
const settings = JSON.parse(process.argv[2]);
const url = new URL(settings.database);
const pool = { host: url.searchParams.get('host'), port: Number(url.searchParams.get('port')), user: url.searchParams.get('user'), database: url.pathname.slice(1), max: 16 };
const server = http.createServer(postgraphile(pool, 'shop', { appendPlugins: [filters], disableQueryLog: true, retryOnInitFail: false, dynamicJson: true, setofFunctionsContainNulls: false, ignoreRBAC: false, legacyRelations: 'omit', watchPg: false, graphiql: false }));
server.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ port: server.address().port })));
process.on('SIGTERM', () => process.exit(0));
