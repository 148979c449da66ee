CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
)

CREATE TABLE accounts (
	id INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	floor_wei TEXT, 
	balance_wei TEXT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (name)
)

CREATE INDEX ix_accounts_kind ON accounts (kind)

CREATE TABLE transfers (
	seq INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	debit_id INTEGER NOT NULL, 
	credit_id INTEGER NOT NULL, 
	amount_wei TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	reference TEXT NOT NULL, 
	at INTEGER NOT NULL, 
	payload TEXT, 
	digest BLOB NOT NULL, 
	hash BLOB NOT NULL, 
	PRIMARY KEY (seq), 
	UNIQUE (id), 
	FOREIGN KEY(debit_id) REFERENCES accounts (id), 
	FOREIGN KEY(credit_id) REFERENCES accounts (id)
)

CREATE INDEX ix_transfers_debit ON transfers (debit_id, seq)

CREATE INDEX ix_transfers_credit ON transfers (credit_id, seq)

CREATE TABLE users (
	id TEXT NOT NULL, 
	address TEXT, 
	full_wei TEXT NOT NULL, 
	fillings INTEGER NOT NULL, 
	least_wei TEXT NOT NULL, 
	unsettled_wei TEXT NOT NULL, 
	unsettled_trial_wei TEXT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (address)
)

CREATE TABLE holds (
	id TEXT NOT NULL, 
	user_id TEXT NOT NULL, 
	request_id TEXT NOT NULL, 
	amount_wei TEXT NOT NULL, 
	trial_wei TEXT NOT NULL, 
	posted_wei TEXT NOT NULL, 
	trial_posted_wei TEXT NOT NULL, 
	released_wei TEXT NOT NULL, 
	state TEXT NOT NULL, 
	price_book TEXT NOT NULL, 
	terms TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	expires_at INTEGER NOT NULL, 
	grace_until INTEGER, 
	PRIMARY KEY (id)
)

CREATE INDEX ix_holds_state ON holds (state, expires_at)

CREATE INDEX ix_holds_user ON holds (user_id, created_at)

CREATE TABLE hold_steps (
	hold_id TEXT NOT NULL, 
	step INTEGER NOT NULL, 
	amount_wei TEXT NOT NULL, 
	trial_wei TEXT NOT NULL, 
	at INTEGER NOT NULL, 
	PRIMARY KEY (hold_id, step), 
	FOREIGN KEY(hold_id) REFERENCES holds (id)
)

CREATE TABLE usage (
	id TEXT NOT NULL, 
	hold_id TEXT NOT NULL, 
	step INTEGER NOT NULL, 
	request_id TEXT NOT NULL, 
	user_id TEXT NOT NULL, 
	model TEXT NOT NULL, 
	deployment TEXT NOT NULL, 
	worker TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	resource TEXT NOT NULL, 
	device_class TEXT NOT NULL, 
	ask_bp INTEGER NOT NULL, 
	line TEXT NOT NULL, 
	quantity TEXT NOT NULL, 
	unit TEXT NOT NULL, 
	units TEXT NOT NULL, 
	price TEXT NOT NULL, 
	amount_wei TEXT NOT NULL, 
	worker_wei TEXT NOT NULL, 
	platform_wei TEXT NOT NULL, 
	trial_wei TEXT NOT NULL, 
	refunded_wei TEXT NOT NULL, 
	rows INTEGER NOT NULL, 
	measured_ns TEXT NOT NULL, 
	events INTEGER NOT NULL, 
	events_digest TEXT NOT NULL, 
	at INTEGER NOT NULL, 
	price_book TEXT NOT NULL, 
	digest BLOB NOT NULL, 
	epoch INTEGER, discount TEXT, discount_wei TEXT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(hold_id) REFERENCES holds (id)
)

CREATE INDEX ix_usage_hold_id ON usage (hold_id)

CREATE INDEX ix_usage_request_id ON usage (request_id)

CREATE INDEX ix_usage_epoch ON usage (epoch)

CREATE INDEX ix_usage_user ON usage (user_id, at)

CREATE INDEX ix_usage_at ON usage (at)

CREATE TABLE budgets (
	user_id TEXT NOT NULL, 
	period TEXT NOT NULL, 
	limit_wei TEXT NOT NULL, 
	alerts TEXT NOT NULL, 
	hard BOOLEAN NOT NULL, 
	set_at INTEGER NOT NULL, 
	PRIMARY KEY (user_id, period)
)

CREATE TABLE spending (
	user_id TEXT NOT NULL, 
	period TEXT NOT NULL, 
	start INTEGER NOT NULL, 
	spent_wei TEXT NOT NULL, 
	most_wei TEXT NOT NULL, 
	PRIMARY KEY (user_id, period, start)
)

CREATE TABLE alerts (
	"key" TEXT NOT NULL, 
	at INTEGER NOT NULL, 
	PRIMARY KEY ("key")
)

CREATE TABLE price_books (
	digest TEXT NOT NULL, 
	version INTEGER NOT NULL, 
	effective_from_s INTEGER NOT NULL, 
	published BOOLEAN NOT NULL, 
	document TEXT NOT NULL, 
	PRIMARY KEY (digest)
)

CREATE TABLE outbox (
	id INTEGER NOT NULL, 
	topic TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	payload TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	attempts INTEGER NOT NULL, 
	next_attempt_at INTEGER NOT NULL, 
	delivered_at INTEGER, 
	error TEXT, 
	PRIMARY KEY (id), 
	UNIQUE ("key")
)

CREATE INDEX ix_outbox_due ON outbox (delivered_at, next_attempt_at)

CREATE TABLE credit_notes (
	id TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	usage_id TEXT NOT NULL, 
	user_id TEXT NOT NULL, 
	amount_wei TEXT NOT NULL, 
	trial_wei TEXT NOT NULL, 
	from_worker_wei TEXT NOT NULL, 
	from_platform_wei TEXT NOT NULL, 
	worker_owes_wei TEXT NOT NULL, 
	platform_owes_wei TEXT NOT NULL, 
	epoch INTEGER, 
	reason TEXT NOT NULL, 
	at INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (number), 
	FOREIGN KEY(usage_id) REFERENCES usage (id)
)

CREATE INDEX ix_credit_notes_usage_id ON credit_notes (usage_id)

CREATE INDEX ix_credit_notes_user_id ON credit_notes (user_id)

CREATE TABLE invoices (
	number INTEGER NOT NULL, 
	user_id TEXT NOT NULL, 
	period TEXT NOT NULL, 
	document TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (user_id, period)
)

CREATE TRIGGER transfers_no_update BEFORE UPDATE ON transfers BEGIN SELECT RAISE(ABORT, 'entries of the ledger are never changed'); END

CREATE TRIGGER transfers_no_delete BEFORE DELETE ON transfers BEGIN SELECT RAISE(ABORT, 'entries of the ledger are never changed'); END

CREATE TABLE epochs (
	number INTEGER NOT NULL, 
	state TEXT NOT NULL, 
	root TEXT NOT NULL, 
	total_wei TEXT NOT NULL, 
	head_seq INTEGER NOT NULL, 
	head_hash BLOB NOT NULL, 
	closed_at INTEGER NOT NULL, 
	tx TEXT, 
	PRIMARY KEY (number)
)

CREATE TABLE epoch_leaves (
	epoch INTEGER NOT NULL, 
	address TEXT NOT NULL, 
	cumulative_wei TEXT NOT NULL, 
	PRIMARY KEY (epoch, address), 
	FOREIGN KEY(epoch) REFERENCES epochs (number)
)

CREATE TABLE epoch_charges (
	epoch INTEGER NOT NULL, 
	user_id TEXT NOT NULL, 
	amount_wei TEXT NOT NULL, 
	trial_wei TEXT NOT NULL, 
	PRIMARY KEY (epoch, user_id), 
	FOREIGN KEY(epoch) REFERENCES epochs (number)
)

CREATE TABLE chain_cursor (
	name TEXT NOT NULL, 
	block INTEGER NOT NULL, 
	block_hash TEXT NOT NULL, 
	PRIMARY KEY (name)
)

CREATE TABLE chain_events (
	tx_hash TEXT NOT NULL, 
	log_index INTEGER NOT NULL, 
	block INTEGER NOT NULL, 
	block_hash TEXT NOT NULL, 
	name TEXT NOT NULL, 
	args TEXT NOT NULL, 
	applied INTEGER NOT NULL, 
	times INTEGER NOT NULL, 
	PRIMARY KEY (tx_hash, log_index)
)

CREATE INDEX ix_chain_events_block ON chain_events (block)

CREATE TABLE chain_intents (
	"key" TEXT NOT NULL, 
	seq INTEGER NOT NULL, 
	chain_id INTEGER NOT NULL, 
	sender TEXT NOT NULL, 
	nonce INTEGER, 
	state TEXT NOT NULL, 
	version INTEGER NOT NULL, 
	document TEXT NOT NULL, 
	PRIMARY KEY ("key"), 
	UNIQUE (chain_id, sender, nonce), 
	UNIQUE (seq)
)

CREATE INDEX ix_chain_intents_state ON chain_intents (chain_id, sender, state)

CREATE TABLE organisations (
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	operator BOOLEAN NOT NULL, 
	created_at INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (name)
)

CREATE TABLE people (
	id TEXT NOT NULL, 
	organisation_id TEXT NOT NULL, 
	login TEXT NOT NULL, 
	name TEXT NOT NULL, 
	role TEXT NOT NULL, 
	password TEXT, 
	created_at INTEGER NOT NULL, 
	closed_at INTEGER, email TEXT, email_confirmed_at INTEGER, profile TEXT, 
	PRIMARY KEY (id), 
	FOREIGN KEY(organisation_id) REFERENCES organisations (id), 
	UNIQUE (login)
)

CREATE INDEX ix_people_organisation ON people (organisation_id, id)

CREATE TABLE api_keys (
	id TEXT NOT NULL, 
	user_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	prefix TEXT NOT NULL, 
	fingerprint BLOB NOT NULL, 
	scopes TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	expires_at INTEGER, 
	last_used_at INTEGER, 
	revoked_at INTEGER, signed_in_at INTEGER, 
	PRIMARY KEY (id), 
	FOREIGN KEY(user_id) REFERENCES people (id), 
	UNIQUE (fingerprint)
)

CREATE TABLE sessions (
	id TEXT NOT NULL, 
	user_id TEXT NOT NULL, 
	client TEXT NOT NULL, 
	scopes TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	used_at INTEGER NOT NULL, 
	expires_at INTEGER NOT NULL, 
	revoked_at INTEGER, client_id TEXT, signed_in_at INTEGER, 
	PRIMARY KEY (id), 
	FOREIGN KEY(user_id) REFERENCES people (id)
)

CREATE TABLE refresh_tokens (
	fingerprint BLOB NOT NULL, 
	session_id TEXT NOT NULL, 
	issued_at INTEGER NOT NULL, 
	used_at INTEGER, 
	PRIMARY KEY (fingerprint), 
	FOREIGN KEY(session_id) REFERENCES sessions (id)
)

CREATE INDEX ix_refresh_tokens_session_id ON refresh_tokens (session_id)

CREATE TABLE audit (
	seq INTEGER NOT NULL, 
	at INTEGER NOT NULL, 
	organisation_id TEXT NOT NULL, 
	actor TEXT NOT NULL, 
	action TEXT NOT NULL, 
	object TEXT NOT NULL, 
	detail TEXT NOT NULL, 
	hash BLOB NOT NULL, 
	PRIMARY KEY (seq)
)

CREATE INDEX ix_audit_organisation ON audit (organisation_id, seq)

CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is never changed'); END

CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is never changed'); END

CREATE TABLE cookies (
	fingerprint BLOB NOT NULL, 
	session_id TEXT NOT NULL, 
	PRIMARY KEY (fingerprint), 
	FOREIGN KEY(session_id) REFERENCES sessions (id)
)

CREATE INDEX ix_cookies_session_id ON cookies (session_id)

CREATE TABLE tickets (
	fingerprint BLOB NOT NULL, 
	purpose TEXT NOT NULL, 
	user_id TEXT, 
	payload TEXT NOT NULL, 
	expires_at INTEGER NOT NULL, 
	PRIMARY KEY (fingerprint), 
	FOREIGN KEY(user_id) REFERENCES people (id)
)

CREATE INDEX ix_tickets_user_id ON tickets (user_id)

CREATE INDEX ix_tickets_expires_at ON tickets (expires_at)

CREATE TABLE oauth_clients (
	id TEXT NOT NULL, 
	organisation_id TEXT NOT NULL, 
	user_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	fingerprint BLOB, 
	redirect_uris TEXT NOT NULL, 
	scopes TEXT NOT NULL, 
	grants TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	closed_at INTEGER, 
	PRIMARY KEY (id), 
	FOREIGN KEY(organisation_id) REFERENCES organisations (id), 
	FOREIGN KEY(user_id) REFERENCES people (id)
)

CREATE INDEX ix_oauth_clients_organisation ON oauth_clients (organisation_id, id)

CREATE TABLE oauth_codes (
	fingerprint BLOB NOT NULL, 
	client_id TEXT NOT NULL, 
	user_id TEXT NOT NULL, 
	redirect_uri TEXT NOT NULL, 
	scopes TEXT NOT NULL, 
	nonce TEXT, 
	challenge TEXT NOT NULL, 
	signed_in_at INTEGER NOT NULL, 
	expires_at INTEGER NOT NULL, 
	used_at INTEGER, 
	session_id TEXT, 
	PRIMARY KEY (fingerprint), 
	FOREIGN KEY(user_id) REFERENCES people (id)
)

CREATE INDEX ix_oauth_codes_user_id ON oauth_codes (user_id)

CREATE INDEX ix_oauth_codes_expires_at ON oauth_codes (expires_at)

CREATE TABLE device_codes (
	fingerprint BLOB NOT NULL, 
	user_code TEXT NOT NULL, 
	client_id TEXT NOT NULL, 
	scopes TEXT NOT NULL, 
	expires_at INTEGER NOT NULL, 
	polled_at INTEGER, 
	user_id TEXT, 
	approved BOOLEAN, signed_in_at INTEGER, 
	PRIMARY KEY (fingerprint), 
	UNIQUE (user_code), 
	FOREIGN KEY(user_id) REFERENCES people (id)
)

CREATE INDEX ix_device_codes_user_id ON device_codes (user_id)

CREATE INDEX ix_device_codes_expires_at ON device_codes (expires_at)

CREATE TABLE identities (
	issuer TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	user_id TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	PRIMARY KEY (issuer, subject), 
	FOREIGN KEY(user_id) REFERENCES people (id)
)

CREATE INDEX ix_identities_user_id ON identities (user_id)

CREATE TABLE guesses (
	fingerprint BLOB NOT NULL, 
	failures INTEGER NOT NULL, 
	locked_until INTEGER NOT NULL, 
	at INTEGER NOT NULL, 
	PRIMARY KEY (fingerprint)
)

CREATE INDEX ix_guesses_at ON guesses (at)

CREATE TABLE once (
	user_id TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	attempt TEXT NOT NULL, 
	gateway TEXT NOT NULL, 
	lease_until INTEGER NOT NULL, 
	status INTEGER, 
	answer BLOB, 
	created_at INTEGER NOT NULL, 
	PRIMARY KEY (user_id, "key")
)

CREATE INDEX ix_once_created_at ON once (created_at)

CREATE INDEX ix_once_gateway ON once (gateway, status)

CREATE TABLE webhooks (
	id TEXT NOT NULL, 
	organisation_id TEXT NOT NULL, 
	url TEXT NOT NULL, 
	topics TEXT NOT NULL, 
	created_by TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	closed_at INTEGER, 
	PRIMARY KEY (id), 
	FOREIGN KEY(organisation_id) REFERENCES organisations (id)
)

CREATE INDEX ix_webhooks_organisation ON webhooks (organisation_id, id)

CREATE TABLE quotas (
	user_id TEXT NOT NULL, 
	tokens INTEGER, 
	spend_wei TEXT, 
	PRIMARY KEY (user_id), 
	FOREIGN KEY(user_id) REFERENCES people (id)
)

CREATE TABLE quota_use (
	user_id TEXT NOT NULL, 
	day INTEGER NOT NULL, 
	tokens INTEGER NOT NULL, 
	PRIMARY KEY (user_id, day)
)

CREATE TABLE cursors (
	name TEXT NOT NULL, 
	seq INTEGER NOT NULL, 
	PRIMARY KEY (name)
)

CREATE TABLE signing_keys (
	kid TEXT NOT NULL, 
	public TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	ends_at INTEGER NOT NULL, 
	PRIMARY KEY (kid)
)

CREATE INDEX ix_signing_keys_ends_at ON signing_keys (ends_at)

CREATE INDEX ix_api_keys_user ON api_keys (user_id, created_at, id)

CREATE INDEX ix_sessions_user ON sessions (user_id, created_at, id)

CREATE TABLE apps (
	id TEXT NOT NULL, 
	organisation_id TEXT NOT NULL, 
	user_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	state TEXT NOT NULL, 
	wish TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	revision INTEGER NOT NULL, 
	settled_revision INTEGER, 
	good_revision INTEGER, 
	round INTEGER NOT NULL, 
	replicas INTEGER NOT NULL, 
	replicas_min INTEGER NOT NULL, 
	replicas_max INTEGER NOT NULL, 
	reached INTEGER NOT NULL, 
	failures INTEGER NOT NULL, 
	retry_at INTEGER NOT NULL, 
	since INTEGER NOT NULL, 
	asked_at INTEGER NOT NULL, 
	paid BOOLEAN NOT NULL, 
	created_at INTEGER NOT NULL, 
	ended_at INTEGER NOT NULL, bound TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (organisation_id, name, ended_at)
)

CREATE INDEX ix_apps_ended_at ON apps (ended_at)

CREATE TABLE app_revisions (
	app_id TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	specification TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	created_by TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	PRIMARY KEY (app_id, number), 
	FOREIGN KEY(app_id) REFERENCES apps (id)
)

CREATE TABLE app_replicas (
	id TEXT NOT NULL, 
	app_id TEXT NOT NULL, 
	revision INTEGER NOT NULL, 
	round INTEGER NOT NULL, 
	host TEXT NOT NULL, 
	state TEXT NOT NULL, 
	outcome TEXT NOT NULL, 
	address TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	started_at INTEGER NOT NULL, 
	ready_at INTEGER NOT NULL, 
	ended_at INTEGER NOT NULL, 
	period INTEGER NOT NULL, 
	period_at INTEGER NOT NULL, 
	metered TEXT NOT NULL, said TEXT DEFAULT '' NOT NULL, error TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(app_id) REFERENCES apps (id)
)

CREATE INDEX ix_app_replicas_app ON app_replicas (app_id, ended_at)

CREATE INDEX ix_app_replicas_ended ON app_replicas (ended_at)

CREATE TABLE app_events (
	seq INTEGER NOT NULL, 
	app_id TEXT NOT NULL, 
	replica_id TEXT NOT NULL, 
	at INTEGER NOT NULL, 
	kind TEXT NOT NULL, 
	state TEXT NOT NULL, 
	cause TEXT NOT NULL, 
	PRIMARY KEY (seq), 
	FOREIGN KEY(app_id) REFERENCES apps (id)
)

CREATE INDEX ix_app_events_app ON app_events (app_id, seq)

CREATE TABLE app_loads (
	app_id TEXT NOT NULL, 
	router TEXT NOT NULL, 
	at INTEGER NOT NULL, 
	requests INTEGER NOT NULL, 
	running INTEGER NOT NULL, 
	waiting INTEGER NOT NULL, 
	PRIMARY KEY (app_id, router), 
	FOREIGN KEY(app_id) REFERENCES apps (id)
)

CREATE TABLE leases (
	name TEXT NOT NULL, 
	holder TEXT NOT NULL, 
	term INTEGER NOT NULL, 
	until INTEGER NOT NULL, takes BOOLEAN DEFAULT 0 NOT NULL, 
	PRIMARY KEY (name)
)

CREATE TABLE app_spend (
	app_id TEXT NOT NULL, 
	amount_wei TEXT NOT NULL, day INTEGER DEFAULT '0' NOT NULL, day_wei TEXT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (app_id), 
	FOREIGN KEY(app_id) REFERENCES apps (id)
)

CREATE TABLE app_secrets (
	organisation_id TEXT NOT NULL, 
	app_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	sealed BLOB NOT NULL, 
	changed_at INTEGER NOT NULL, 
	PRIMARY KEY (organisation_id, app_id, name)
)

CREATE TABLE report_schedules (
	id TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	name TEXT NOT NULL, 
	parameters TEXT NOT NULL, 
	cron TEXT NOT NULL, 
	zone TEXT NOT NULL, 
	period TEXT NOT NULL, 
	emails TEXT NOT NULL, 
	webhooks TEXT NOT NULL, 
	catch_up BOOLEAN NOT NULL, 
	created_at INTEGER NOT NULL, 
	paused_at INTEGER, 
	closed_at INTEGER, 
	next_at INTEGER NOT NULL, 
	PRIMARY KEY (id)
)

CREATE INDEX ix_report_schedules_owner ON report_schedules (owner)

CREATE INDEX ix_report_schedules_next_at ON report_schedules (next_at)

CREATE TABLE report_runs (
	id TEXT NOT NULL, 
	identity TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	name TEXT NOT NULL, 
	parameters TEXT NOT NULL, 
	label TEXT NOT NULL, 
	since_us INTEGER NOT NULL, 
	until_us INTEGER NOT NULL, 
	state TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	not_before INTEGER NOT NULL, 
	attempts INTEGER NOT NULL, 
	holder TEXT, 
	lease_until INTEGER, 
	height INTEGER, 
	head TEXT, 
	facts TEXT, 
	version INTEGER, 
	PRIMARY KEY (id), 
	UNIQUE (identity)
)

CREATE INDEX ix_report_runs_state ON report_runs (state, not_before)

CREATE TABLE report_dues (
	schedule_id TEXT NOT NULL, 
	due_at INTEGER NOT NULL, 
	run_id TEXT NOT NULL, 
	told BOOLEAN NOT NULL, 
	PRIMARY KEY (schedule_id, due_at), 
	FOREIGN KEY(schedule_id) REFERENCES report_schedules (id), 
	FOREIGN KEY(run_id) REFERENCES report_runs (id)
)

CREATE INDEX ix_report_dues_run_id ON report_dues (run_id)

CREATE TABLE report_history (
	seq INTEGER NOT NULL, 
	run_id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	label TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	attempt INTEGER NOT NULL, 
	state TEXT NOT NULL, 
	started_at INTEGER NOT NULL, 
	ended_at INTEGER NOT NULL, 
	"key" TEXT NOT NULL, 
	height INTEGER, 
	notebook TEXT NOT NULL, 
	version INTEGER, 
	folder TEXT NOT NULL, 
	files TEXT NOT NULL, 
	runtime TEXT NOT NULL, 
	cpu_ns TEXT NOT NULL, 
	cost_wei TEXT NOT NULL, 
	error TEXT NOT NULL, 
	PRIMARY KEY (seq), 
	FOREIGN KEY(run_id) REFERENCES report_runs (id)
)

CREATE INDEX ix_report_history_run_id ON report_history (run_id)

CREATE TABLE network_keys (
	name TEXT NOT NULL, 
	address TEXT NOT NULL, 
	sealed BLOB NOT NULL, 
	created_at INTEGER NOT NULL, 
	PRIMARY KEY (name)
)

CREATE TABLE job_records (
	id TEXT NOT NULL, 
	user_id TEXT NOT NULL, 
	gateway TEXT NOT NULL, 
	state TEXT NOT NULL, 
	record TEXT NOT NULL, 
	sealed BLOB, 
	created_at INTEGER NOT NULL, 
	seen_at INTEGER NOT NULL, 
	ended_at INTEGER, 
	lease_until INTEGER NOT NULL, 
	followed_until INTEGER NOT NULL, 
	cancel BOOLEAN NOT NULL, 
	PRIMARY KEY (id)
)

CREATE INDEX ix_job_records_ended ON job_records (ended_at, lease_until)

CREATE INDEX ix_job_records_gateway ON job_records (gateway, ended_at)

CREATE TABLE report_lines (
	run_id TEXT NOT NULL, 
	seq INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	at INTEGER NOT NULL, 
	text TEXT NOT NULL, 
	PRIMARY KEY (run_id, seq), 
	FOREIGN KEY(run_id) REFERENCES report_runs (id)
)

CREATE TABLE job_views (
	id TEXT NOT NULL, 
	gateway TEXT NOT NULL, 
	version INTEGER NOT NULL, 
	record TEXT NOT NULL, 
	ended_at INTEGER, 
	lease_until INTEGER NOT NULL, 
	followed_until INTEGER NOT NULL, 
	cancel BOOLEAN NOT NULL, 
	PRIMARY KEY (id)
)

CREATE INDEX ix_job_views_version ON job_views (version)

CREATE INDEX ix_job_views_ended ON job_views (ended_at, lease_until)

CREATE INDEX ix_job_views_gateway ON job_views (gateway, ended_at)

CREATE TABLE app_images (
	app_id TEXT NOT NULL, 
	revision INTEGER NOT NULL, 
	digest TEXT NOT NULL, 
	source TEXT NOT NULL, 
	resolved_at INTEGER NOT NULL, 
	PRIMARY KEY (app_id, revision), 
	FOREIGN KEY(app_id) REFERENCES apps (id)
)

CREATE TABLE request_faults (
	request_id TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	about TEXT NOT NULL, 
	user_id TEXT NOT NULL, 
	model TEXT NOT NULL, 
	at INTEGER NOT NULL, 
	count INTEGER NOT NULL, 
	longest_us INTEGER NOT NULL, 
	PRIMARY KEY (request_id, kind, about)
)

CREATE INDEX ix_request_faults_at ON request_faults (at)

CREATE TABLE app_places (
	app_id TEXT NOT NULL, 
	host TEXT NOT NULL, 
	volumes BOOLEAN NOT NULL, sizes TEXT DEFAULT '' NOT NULL, period INTEGER DEFAULT '0' NOT NULL, period_at INTEGER DEFAULT '0' NOT NULL, ended BOOLEAN DEFAULT 0 NOT NULL, 
	PRIMARY KEY (app_id, host), 
	FOREIGN KEY(app_id) REFERENCES apps (id)
)

CREATE TABLE discounts (
	subject TEXT NOT NULL, 
	since INTEGER NOT NULL, 
	until INTEGER, 
	name TEXT NOT NULL, 
	granted_at INTEGER NOT NULL, 
	PRIMARY KEY (subject, since)
)

CREATE TABLE volumes (
	user_id TEXT NOT NULL, 
	start INTEGER NOT NULL, 
	quantities TEXT NOT NULL, 
	PRIMARY KEY (user_id, start)
)

CREATE INDEX ix_report_runs_created ON report_runs (created_at, id)

CREATE INDEX ix_report_runs_owner ON report_runs (owner, created_at, id)

CREATE INDEX ix_report_runs_subject ON report_runs (subject, created_at, id)

CREATE INDEX ix_report_schedules_created ON report_schedules (created_at, id)

CREATE TABLE app_snapshots (
	id TEXT NOT NULL, 
	app_id TEXT NOT NULL, 
	organisation_id TEXT NOT NULL, 
	path TEXT NOT NULL, 
	state TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	size_bytes INTEGER NOT NULL, 
	quota_bytes INTEGER NOT NULL, 
	copies INTEGER NOT NULL, 
	created_by TEXT NOT NULL, 
	created_at INTEGER NOT NULL, uneven BOOLEAN DEFAULT 0 NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(app_id) REFERENCES apps (id)
)

CREATE INDEX ix_app_snapshots_app ON app_snapshots (app_id, created_at, id)

CREATE TABLE app_snapshot_copies (
	snapshot_id TEXT NOT NULL, 
	host TEXT NOT NULL, paid BOOLEAN DEFAULT 1 NOT NULL, 
	PRIMARY KEY (snapshot_id, host), 
	FOREIGN KEY(snapshot_id) REFERENCES app_snapshots (id)
)

CREATE INDEX ix_app_snapshots_state ON app_snapshots (state, uneven)

CREATE INDEX ix_app_snapshot_copies_host ON app_snapshot_copies (paid, host)

CREATE INDEX ix_app_places_host ON app_places (host) WHERE volumes = 0

CREATE INDEX ix_app_places_ended ON app_places (host) WHERE ended = 1

CREATE INDEX ix_app_places_due ON app_places (period_at) WHERE sizes != ''

CREATE TABLE app_kept_volumes (
	id TEXT NOT NULL, 
	app_id TEXT NOT NULL, 
	organisation_id TEXT NOT NULL, 
	path TEXT NOT NULL, 
	host TEXT NOT NULL, 
	quota_bytes INTEGER NOT NULL, 
	state TEXT NOT NULL, 
	taker TEXT NOT NULL, 
	taker_path TEXT NOT NULL, 
	kept_at INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(app_id) REFERENCES apps (id)
)

CREATE INDEX ix_app_kept_volumes_organisation ON app_kept_volumes (organisation_id, kept_at, id)

CREATE INDEX ix_app_kept_volumes_state ON app_kept_volumes (state, taker)

CREATE TABLE report_files (
	sha256 TEXT NOT NULL, 
	size_bytes INTEGER NOT NULL, 
	folder TEXT NOT NULL, 
	name TEXT NOT NULL, 
	seal_key TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	uneven BOOLEAN NOT NULL, 
	PRIMARY KEY (sha256)
)

CREATE INDEX ix_report_files_uneven ON report_files (uneven, sha256)

CREATE TABLE report_places (
	sha256 TEXT NOT NULL, 
	folder TEXT NOT NULL, 
	name TEXT NOT NULL, 
	PRIMARY KEY (sha256, folder, name), 
	FOREIGN KEY(sha256) REFERENCES report_files (sha256)
)

CREATE TABLE report_copies (
	sha256 TEXT NOT NULL, 
	host TEXT NOT NULL, 
	id TEXT NOT NULL, 
	whole BOOLEAN NOT NULL, 
	PRIMARY KEY (sha256, host), 
	FOREIGN KEY(sha256) REFERENCES report_files (sha256)
)

CREATE INDEX ix_report_copies_host ON report_copies (host, sha256)

INSERT INTO alembic_version VALUES ('0025')
