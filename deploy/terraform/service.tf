# The same service as config/service.yaml, for those who want terraform to own it: -var=create_service=true.

resource "google_cloud_run_v2_service" "api" {
  count               = var.create_service ? 1 : 0
  name                = var.service.name
  location            = var.region
  ingress             = "INGRESS_TRAFFIC_ALL"
  deletion_protection = false

  template {
    service_account                  = google_service_account.server.email
    timeout                          = "${var.service.timeout_s}s"
    max_instance_request_concurrency = var.service.concurrency
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"

    scaling {
      min_instance_count = var.service.min_instances
      max_instance_count = var.service.max_instances
    }

    containers {
      name  = "server"
      image = "${var.region}-docker.pkg.dev/${var.project}/${var.repository}/${var.serving_image}"

      ports {
        name           = "http1"
        container_port = 8080
      }

      env {
        name  = "MODEL_PATH"
        value = "gs://${var.bucket}/${var.service.alias}"
      }

      env {
        name  = "HIMARI_ALLOW_ANONYMOUS"
        value = "1"
      }

      env {
        name  = "HIMARI_LOG_EVERY"
        value = tostring(var.service.log_every)
      }

      env {
        name  = "HIMARI_THROTTLED"
        value = "1"
      }

      resources {
        limits = {
          cpu    = var.service.cpu
          memory = var.service.memory
        }
        cpu_idle          = true
        startup_cpu_boost = true
      }

      startup_probe {
        period_seconds    = 2
        timeout_seconds   = 2
        failure_threshold = 30
        http_get {
          path = "/ready"
          port = 8080
        }
      }

      liveness_probe {
        period_seconds  = 30
        timeout_seconds = 2
        http_get {
          path = "/health"
          port = 8080
        }
      }
    }
  }
}

# Nobody calls it but these: the service is not public.
resource "google_cloud_run_v2_service_iam_member" "invokers" {
  for_each = var.create_service ? toset(var.invokers) : toset([])
  name     = google_cloud_run_v2_service.api[0].name
  location = var.region
  role     = "roles/run.invoker"
  member   = each.value
}
