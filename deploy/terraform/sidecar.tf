# What the Managed Prometheus sidecar of profile steady scrapes; the service mounts it, so its account must read it.

resource "google_secret_manager_secret" "scrape" {
  secret_id = var.scrape_secret
  replication {
    auto {}
  }
}

resource "google_secret_manager_secret_version" "scrape" {
  secret      = google_secret_manager_secret.scrape.id
  secret_data = file("${path.module}/../rungmp.yaml")
}

resource "google_secret_manager_secret_iam_member" "server_reads" {
  secret_id = google_secret_manager_secret.scrape.id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.server.member
}
