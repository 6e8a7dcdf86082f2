output "bucket" {
  value = "gs://${google_storage_bucket.himari.name}"
}

output "server_account" {
  value = google_service_account.server.email
}

output "trainer_account" {
  value = google_service_account.trainer.email
}
