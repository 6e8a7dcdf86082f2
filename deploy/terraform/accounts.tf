# Two accounts: who trains writes the bucket, who serves reads it. Neither may do anything else.

resource "google_service_account" "trainer" {
  account_id   = var.trainer_account
  display_name = "himari_rl: training jobs"
}

resource "google_service_account" "server" {
  account_id   = var.server_account
  display_name = "himari_rl: the policy server"
}

resource "google_storage_bucket_iam_member" "trainer_writes" {
  bucket = google_storage_bucket.himari.name
  role   = "roles/storage.objectUser"
  member = google_service_account.trainer.member
}

resource "google_storage_bucket_iam_member" "server_reads" {
  bucket = google_storage_bucket.himari.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.server.member
}

resource "google_project_iam_member" "trainer_logs" {
  project = var.project
  role    = "roles/logging.logWriter"
  member  = google_service_account.trainer.member
}

resource "google_project_iam_member" "server_logs" {
  project = var.project
  role    = "roles/logging.logWriter"
  member  = google_service_account.server.member
}

# For the Managed Prometheus sidecar of profile steady.
resource "google_project_iam_member" "server_metrics" {
  project = var.project
  role    = "roles/monitoring.metricWriter"
  member  = google_service_account.server.member
}
