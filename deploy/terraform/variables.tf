variable "project" {
  type        = string
  description = "Google Cloud project; nothing in this repository names it."
}

variable "billing_account" {
  type        = string
  default     = ""
  description = "Account of the billing budget; empty: no budget is made."
}

variable "create_service" {
  type        = bool
  default     = false
  description = "Whether terraform owns the Cloud Run service too, instead of `gcloud run services replace`."
}

variable "region" {
  type = string
}

variable "bucket" {
  type = string
}

variable "keep_days" {
  type = number
}

variable "repository" {
  type = string
}

variable "serving_image" {
  type = string
}

variable "trainer_account" {
  type = string
}

variable "server_account" {
  type = string
}

variable "scrape_secret" {
  type = string
}

variable "invokers" {
  type = list(string)
}

variable "service" {
  type = object({
    name          = string
    alias         = string
    cpu           = string
    memory        = string
    min_instances = number
    max_instances = number
    concurrency   = number
    timeout_s     = number
    log_every     = number
  })
}

variable "email" {
  type = string
}

variable "budget_usd" {
  type = number
}

variable "alerts" {
  type = list(object({
    signal       = string
    display_name = string
    title        = string
    query        = string
    duration     = string
    cure         = string
  }))
}
